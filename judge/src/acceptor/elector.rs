//! **J-1**: what an elector did is what the step function does, given the same inputs at the same moments. The real one
//! is run again, whatever the elector that was recorded ran.

use std::collections::VecDeque;

use lease_core::internal::step::{Event, Jitter, Reply, State, step};
use lease_core::internal::writes::Fresh;
use lease_core::{Certainty, Instant, PutOutcome, Term};

use super::{Explained, require, unexplained};
use crate::facts::Facts;
use crate::history::{Answer, HistoryEntry, Stepped, Took, What};
use crate::invariants::Violation;
use crate::recording::output;

/// Returns how many steps it has run again.
pub(crate) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let steps = |what: &What| matches!(what, What::Campaigning { .. } | What::Ruled(_) | What::Stepped(_));
    let electors = facts.actors().filter(|actor| facts.events_of(actor).any(|(_, event)| steps(&event.what)));
    electors.map(|actor| replay(facts, actor)).sum()
}

fn replay(facts: &Facts<'_>, actor: &str) -> Result<usize, Violation> {
    let mut replay = Replay { start: facts.history.start(), ..Replay::default() };
    let mut last = 0;
    let fails = |place, model: String| {
        let concerns = |before: usize| facts.history.events[before].actor == actor;
        Err(unexplained("J-1", (facts.history, place), &model, concerns))
    };
    for (place, event) in facts.events_of(actor) {
        last = place;
        if let Err(model) = replay.take(event) {
            return fails(place, model);
        }
    }
    // Whoever was killed, or is still under way, may not have told all of its last step.
    match replay.nothing_is_missing() {
        Err(model) if replay.left => fails(last, format!("{model}, and nothing follows")),
        _ => Ok(replay.steps),
    }
}

/// The model's run so far.
struct Replay {
    /// The moment that told times count from.
    start: Instant,
    /// The ttl by which it campaigns.
    ttl_ms: Option<u64>,
    left: bool,
    state: Option<State>,
    steps: usize,
    /// The moment of the latest step.
    now: Instant,
    /// The latest step, if what it takes in has not come yet.
    awaits: Option<Stepped>,
    /// What the latest step does, as far as it has not come yet.
    owed: VecDeque<What>,
    /// The term that began last.
    present: Option<Term>,
    /// Each deadline so far.
    deadlines: Vec<(Term, Instant)>,
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            start: Instant::ZERO,
            ttl_ms: None,
            left: false,
            state: None,
            steps: 0,
            now: Instant::ZERO,
            awaits: None,
            owed: VecDeque::new(),
            present: None,
            deadlines: Vec::new(),
        }
    }
}

impl Replay {
    /// Takes the elector's next event.
    fn take(&mut self, event: &HistoryEntry) -> Explained {
        match &event.what {
            What::Campaigning { ttl_ms, .. } => {
                require(self.ttl_ms.is_none(), "an elector begins to campaign once")?;
                self.ttl_ms = Some(*ttl_ms);
                Ok(())
            }
            What::Ruled(rules) => {
                let ttl = u64::try_from(rules.who.ttl.as_millis()).ok();
                require(
                    self.ttl_ms.is_some() && ttl == self.ttl_ms,
                    "an elector has the ttl that it campaigns by",
                )?;
                require(
                    self.steps == 0 && self.state.is_none(),
                    "its rules come before its steps, and once",
                )?;
                self.state = Some(State::new((**rules).clone()));
                Ok(())
            }
            What::Stepped(step) => self.steps_at(event.at, step),
            What::Left => {
                require(!self.left, "an elector leaves once")?;
                self.left = true;
                Ok(())
            }
            What::Answered { .. } | What::Shown { .. } | What::Watching { .. } | What::WorkReturned => {
                require(event.at == self.now, "it came at another moment than its step")?;
                let Some(step) = self.awaits.take() else {
                    return self.nothing_is_missing().and(Err(NO_STEP.into()));
                };
                self.run(told(&event.what), &step)
            }
            What::Sent { .. }
            | What::Dropped { .. }
            | What::Begun { .. }
            | What::Extended { .. }
            | What::StopTold { .. }
            | What::Ended { .. } => self.does(event),
            What::Claimed { term, from, until, .. } => self.claims(*term, (*from, event.at), *until),
            What::Effect { .. }
            | What::Died
            | What::Paused
            | What::Fault { .. }
            | What::Outside { .. }
            | What::StillTrue { .. } => Ok(()),
        }
    }

    fn steps_at(&mut self, at: Instant, step: &Stepped) -> Explained {
        self.nothing_is_missing()?;
        require(at >= self.now, "an elector's clock never goes back")?;
        (self.now, self.steps) = (at, self.steps + 1);
        let event = match step.took {
            Took::Next => {
                self.awaits = Some(step.clone());
                return Ok(());
            }
            Took::Tick => Event::Tick,
            Took::Hint => Event::Hint,
            Took::Progressed(at) => Event::Progressed(at),
            Took::FenceRefused(term) => Event::FenceRefused(term),
            Took::HolderIsDead => Event::HolderIsDead,
            Took::Shutdown => Event::Shutdown,
            Took::Abandon => Event::Abandon,
            Took::StoreGone => Event::StoreGone,
        };
        self.run(event, step)
    }

    /// Runs the latest step.
    fn run(&mut self, event: Event, taken: &Stepped) -> Explained {
        let state = self.state.take().ok_or("an elector has its rules before it steps")?;
        let fresh = Fresh { tag: taken.tag, grant: taken.grant, wall: taken.wall };
        let (state, actions) = step(state, self.now, event, &fresh, Jitter(taken.jitter));
        self.state = Some(state);
        self.owed = actions.iter().filter_map(|action| output(action, &mut self.present)).collect();
        Ok(())
    }

    /// The latest step does this.
    fn does(&mut self, event: &HistoryEntry) -> Explained {
        let Some(owed) = self.owed.front() else {
            return self.nothing_is_missing().and(Err(NOTHING_MORE.into()));
        };
        if *owed != event.what {
            let (owed, told) = (owed.tell(self.start), event.what.tell(self.start));
            // What a line tells of two records can be the same.
            let differs =
                if owed == told { format!("{:?}, not {:?}", self.owed[0], event.what) } else { owed };
            return Err(format!("by the model it is: {differs}"));
        }
        require(event.at == self.now, "it came at another moment than its step")?;
        require(
            !self.left || !matches!(event.what, What::Sent { .. }),
            "an elector that has left sends nothing",
        )?;
        if let What::Begun { term, deadline } | What::Extended { term, deadline } = event.what {
            self.deadlines.push((term, deadline));
        }
        self.owed.pop_front();
        Ok(())
    }

    /// Another thread asked for the time that was left, at some moment between these two.
    fn claims(&self, term: Term, (from, to): (Instant, Instant), until: Instant) -> Explained {
        let fits = |deadline: Instant| until <= deadline && deadline.since(until) <= to.since(from);
        let mut deadlines =
            self.deadlines.iter().filter(|(of, _)| *of == term).map(|(_, deadline)| *deadline);
        require(from <= to && deadlines.any(fits), "no deadline of this term answers so")
    }

    /// Everything has come that belongs to the steps so far.
    fn nothing_is_missing(&self) -> Explained {
        match self.owed.front() {
            Some(owed) => {
                Err(format!("by the model the step before does this first: {}", owed.tell(self.start)))
            }
            None => require(self.awaits.is_none(), "what the step before takes in is missing"),
        }
    }
}

const NO_STEP: &str = "no step takes it in";
const NOTHING_MORE: &str = "by the model the step does nothing more";

/// What a step takes in, from the event that tells it.
fn told(what: &What) -> Event {
    match what {
        What::Answered { call, answer } => {
            let reply = match answer {
                Answer::Seen(view) => Reply::Seen(view.into()),
                Answer::Written(view) => Reply::Put(PutOutcome::Written(view.into())),
                Answer::Conflict(view) => Reply::Put(PutOutcome::Conflict(view.into())),
                Answer::NotApplied => Reply::Failed(Certainty::NotApplied),
                Answer::Unknown => Reply::Failed(Certainty::Unknown),
            };
            Event::Reply(*call, reply)
        }
        What::Shown { view } => Event::Shown(view.into()),
        What::Watching { live } => Event::Watching(*live),
        _ => Event::WorkReturned,
    }
}
