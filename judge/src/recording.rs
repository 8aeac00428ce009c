//! Recording: around an elector's step function, and around a backend that a case uses by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lease_core::internal::StepFn;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Reply};
use lease_core::{
    BackendError, Capabilities, Certainty, Change, Clock, Hints, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record, Term,
};

use crate::history::{Answer, Put, What};
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

/// A step function that records what goes into `inner` and what comes out.
pub fn recorded(recorder: Recorder, lease: LeaseName, actor: String, inner: StepFn) -> StepFn {
    let term: Mutex<Option<Term>> = Mutex::new(None);
    Arc::new(move |state, now, event, fresh, jitter| {
        let tell = |what| recorder.record(&lease, now, &actor, what);
        let told = match &event {
            Event::Reply(call, reply) => {
                let answer = match reply {
                    Reply::Seen(observation) => Answer::Seen(observation.into()),
                    Reply::Put(outcome) => answer(outcome),
                    Reply::Failed(certainty) => failure(*certainty),
                };
                Some((*call, What::Answered { call: *call, answer }))
            }
            Event::Shown(observation) => Some((CallId::MAX, What::Shown { view: observation.into() })),
            Event::Watching(live) => Some((CallId::MAX, What::Watching { live: *live })),
            Event::WorkReturned => Some((CallId::MAX, What::WorkReturned)),
            _ => None,
        };
        let (state, actions) = inner(state, now, event, fresh, jitter);
        // An answer that came after its call was given up was never taken in.
        let given_up = |call| actions.iter().any(|action| matches!(action, Action::Drop(id) if *id == call));
        if let Some((_, what)) = told.filter(|(call, _)| !given_up(*call)) {
            tell(what);
        }
        let mut present = term.lock().expect("not poisoned");
        for action in &actions {
            match (action, *present) {
                (Action::Send(call, CallRequest::Observe), _) => tell(What::Sent { call: *call, put: None }),
                (Action::Send(call, CallRequest::Put { expected, record, change }), _) => {
                    let put = Put { change: *change, expected: expected.into(), record: record.clone() };
                    tell(What::Sent { call: *call, put: Some(Box::new(put)) });
                }
                (Action::Drop(call), _) => tell(What::Dropped { call: *call }),
                (Action::Begin(term, deadline), _) => {
                    *present = Some(*term);
                    tell(What::Begun { term: *term, deadline: deadline.at() });
                }
                (Action::Extend(deadline), Some(term)) => {
                    tell(What::Extended { term, deadline: deadline.at() });
                }
                (Action::TellStop(_), Some(term)) => tell(What::StopTold { term }),
                (Action::End(loss), Some(term)) => tell(What::Ended { term, loss: *loss }),
                _ => {}
            }
        }
        (state, actions)
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
