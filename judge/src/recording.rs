//! Recording: around an elector's step function, and around a backend that a case uses by hand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lease_core::internal::StepFn;
use lease_core::internal::step::{Action, CallRequest, Event, Reply};
use lease_core::internal::writes::Fresh;
use lease_core::{
    BackendError, Capabilities, Certainty, Change, Clock, Hints, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record, Term,
};

use crate::history::{Answer, Put, Stepped, Took, What};
use crate::recorder::Recorder;

fn answer(outcome: &PutOutcome) -> Answer {
    match outcome {
        PutOutcome::Written(observation) => Answer::Written(observation.into()),
        PutOutcome::Conflict(observation) => Answer::Conflict(observation.into()),
    }
}

fn failure(certainty: Certainty) -> Answer {
    match certainty {
        Certainty::NotApplied => Answer::NotApplied,
        Certainty::Unknown => Answer::Unknown,
    }
}

/// A step function that records what goes into `inner` and what comes out: enough to run each step once more.
pub fn recorded(recorder: Recorder, lease: LeaseName, actor: String, inner: StepFn) -> StepFn {
    let ruled = AtomicBool::new(false);
    let present: Mutex<Option<Term>> = Mutex::new(None);
    Arc::new(move |state, now, event, fresh, jitter| {
        let tell = |what| recorder.record(&lease, now, &actor, what);
        if !ruled.swap(true, Ordering::Relaxed) {
            tell(What::Ruled(Box::new(state.rules().clone())));
        }
        let (mut took, mut told) = input(&event);
        let (state, actions) = inner(state, now, event, fresh, jitter);
        // An answer that came after its call was given up was never taken in.
        let given_up = |id| actions.iter().any(|action| matches!(action, Action::Drop(call) if *call == id));
        if matches!(told, Some(What::Answered { call, .. }) if given_up(call)) {
            (took, told) = (Took::Tick, None);
        }
        let Fresh { tag, grant, wall } = *fresh;
        tell(What::Stepped(Box::new(Stepped { took, jitter: jitter.0, tag, grant, wall })));
        told.into_iter().for_each(&tell);
        let mut present = present.lock().expect("not poisoned");
        actions.iter().filter_map(|action| output(action, &mut present)).for_each(tell);
        (state, actions)
    })
}

/// What a step takes in, and the event that tells the rest of it.
fn input(event: &Event) -> (Took, Option<What>) {
    let told = match event {
        Event::Reply(call, reply) => {
            let answer = match reply {
                Reply::Seen(observation) => Answer::Seen(observation.into()),
                Reply::Put(outcome) => answer(outcome),
                Reply::Failed(certainty) => failure(*certainty),
            };
            What::Answered { call: *call, answer }
        }
        Event::Shown(observation) => What::Shown { view: observation.into() },
        Event::Watching(live) => What::Watching { live: *live },
        Event::WorkReturned => What::WorkReturned,
        Event::Tick => return (Took::Tick, None),
        Event::Hint => return (Took::Hint, None),
        Event::Progressed(at) => return (Took::Progressed(*at), None),
        Event::FenceRefused(term) => return (Took::FenceRefused(*term), None),
        Event::HolderIsDead => return (Took::HolderIsDead, None),
        Event::Shutdown => return (Took::Shutdown, None),
        Event::Abandon => return (Took::Abandon, None),
        Event::StoreGone => return (Took::StoreGone, None),
    };
    (Took::Next, Some(told))
}

/// The event that tells of an action, if one does. `present` is the term that began last.
pub(crate) fn output(action: &Action, present: &mut Option<Term>) -> Option<What> {
    Some(match action {
        Action::Send(call, CallRequest::Observe) => What::Sent { call: *call, put: None },
        Action::Send(call, CallRequest::Put { expected, record, change }) => {
            let put = Put { change: *change, expected: expected.into(), record: record.clone() };
            What::Sent { call: *call, put: Some(Box::new(put)) }
        }
        Action::Drop(call) => What::Dropped { call: *call },
        Action::Begin(term, deadline) => {
            *present = Some(*term);
            What::Begun { term: *term, deadline: deadline.at() }
        }
        Action::Extend(deadline) => What::Extended { term: (*present)?, deadline: deadline.at() },
        Action::TellStop(_) => What::StopTold { term: (*present)? },
        Action::End(loss) => What::Ended { term: (*present)?, loss: *loss },
        Action::Note(_) | Action::Stopped => return None,
    })
}

/// A backend that a case uses by hand, recorded as an actor of its own.
pub struct Recorded {
    inner: Arc<dyn LeaseBackend>,
    recorder: Recorder,
    actor: String,
    calls: AtomicU64,
}

impl Recorded {
    /// Records the calls to `inner` as those of `actor`, which no other may be called.
    pub fn new(inner: Arc<dyn LeaseBackend>, recorder: Recorder, actor: String) -> Self {
        Self { inner, recorder, actor, calls: AtomicU64::new(0) }
    }

    fn tell(&self, name: &LeaseName, what: What) {
        self.recorder.record(name, Clock::boot().now(), &self.actor, what);
    }

    fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[async_trait]
impl LeaseBackend for Recorded {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let call = self.call();
        self.tell(name, What::Sent { call, put: None });
        let seen = self.inner.observe(name).await;
        let answer = match &seen {
            Ok(observation) => Answer::Seen(observation.into()),
            Err(_) => Answer::NotApplied,
        };
        self.tell(name, What::Answered { call, answer });
        seen
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let call = self.call();
        let put = Put { change, expected: expected.into(), record: record.clone() };
        self.tell(name, What::Sent { call, put: Some(Box::new(put)) });
        let outcome = self.inner.put_if(name, expected, record, change).await;
        let answer = match &outcome {
            Ok(outcome) => answer(outcome),
            Err(error) => failure(error.certainty),
        };
        self.tell(name, What::Answered { call, answer });
        outcome
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.inner.watch(prefix).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.inner.history(name, limit).await
    }
}
