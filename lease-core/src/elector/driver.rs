//! The thin asynchronous driver around [`step`](super::step::step): it runs on the lease thread, sends what the step
//! says, and tells it what happened. It decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::connection::{Connection, Opener, SHORTEST_CONNECT_LIMIT, Teller, check_is_the_same};
use super::step::{Action, CallId, CallRequest, Event, Jitter, Note, Reply, Rules, State, StepFn};
use crate::backend::{Connector, LeaseBackend};
use crate::clock::{Clock, Instant};
use crate::deadline::lengthened;
use crate::error::{BackendError, Certainty};
use crate::events::{EventKind, LeaseEvent};
use crate::leadership::Leadership;
use crate::migrate::{MayMove, MigrateError, Move, Progress};
use crate::record::{LeaseName, Observation, Record, Term};
use crate::repeated::Repeated;
use crate::view::Glimpse;
use crate::work;
use crate::writes::Fresh;

pub(super) struct Driver {
    pub(super) name: LeaseName,
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) migrate_from: Option<Arc<dyn Connector>>,
    pub(super) not_moved_yet: bool,
    pub(super) step: StepFn,
    /// From `run_until`: shutdown, work returned, abandon.
    pub(super) control: mpsc::Receiver<Event>,
    /// To `run_until`: each term that begins.
    pub(super) terms: mpsc::Sender<Leadership>,
    pub(super) events: broadcast::Sender<LeaseEvent>,
    pub(super) view: watch::Sender<Glimpse>,
    /// The store's, for the log, by operation: on a full disk reads work and writes fail.
    pub(super) failures: Arc<Mutex<Failures>>,
    pub(super) holder_is_dead: Arc<Notify>,
}

/// A stopped elector keeps its connections for this long after its release: a successor on the same host, or at the
/// same server, takes over in milliseconds, in which tearing down connections and a process would be in its way
/// (`docs/decisions/0008-linger.md`). Decides nothing, so it is no matter of the lease's clock.
const LINGER: Duration = Duration::from_millis(50);

/// What fails, by operation.
pub(super) type Failures = BTreeMap<&'static str, Repeated>;

const CONNECT: &str = "connect";
const READ: &str = "read";
const WRITE: &str = "write";
const MOVE: &str = "move";

/// A finished call: its id, what it was, the number of the backend that it was made on, and how it ended.
type Finished = (CallId, &'static str, u32, Result<Reply, BackendError>);

struct Running {
    connection: Connection,
    state: State,
    calls: JoinSet<Finished>,
    under_way: Vec<(CallId, &'static str, AbortHandle)>,
    /// The present term's handle, until its work has returned and its release is done.
    leadership: Option<Leadership>,
    refused: Arc<Notify>,
    /// The last term was given up.
    released: bool,
    /// The work that the lease is for, if it isn't ours.
    others_work: Option<String>,
    /// What was opened is gone for good; and whether that ended a term.
    gone: Option<(BackendError, bool)>,
}

impl Driver {
    /// Runs until shutdown, or until the store refuses in a way that no retry can fix, or is gone.
    pub(super) async fn run(mut self) -> Result<(), BackendError> {
        let opener = self.opener(&self.connector);
        let Some(backend) = self.connect(&opener).await? else {
            self.report(EventKind::Stopped);
            return Ok(());
        };
        let capabilities = backend.capabilities();
        self.rules.creates_registers = capabilities.creates_registers;
        capabilities.check_ttl(self.rules.who.ttl)?;
        self.report(EventKind::Connected { backend: capabilities.name });
        let Some(backend) = self.move_here(backend).await? else {
            self.report(EventKind::Stopped);
            return Ok(());
        };
        let mut running = Running {
            connection: Connection::new(opener, self.name.clone(), backend),
            state: State::new(self.rules.clone()),
            calls: JoinSet::new(),
            under_way: Vec::new(),
            leadership: None,
            refused: Arc::new(Notify::new()),
            released: false,
            others_work: None,
            gone: None,
        };
        let mut event = Event::Tick;
        loop {
            self.apply(&mut running, event);
            if running.state.is_stopped() {
                if running.released {
                    tokio::time::sleep(LINGER).await;
                }
                if let Some(theirs) = running.others_work.take() {
                    let why = work::differs(&theirs, self.rules.who.work.as_deref());
                    return Err(BackendError::refused(format!("lease {} is not for this: {why}", self.name)));
                }
                return match running.gone.take() {
                    Some((gone, led)) => {
                        if !led {
                            self.wait_for_the_next_process(&running).await;
                        }
                        Err(gone)
                    }
                    None => Ok(()),
                };
            }
            let wake = running.state.wake_at();
            let refused = running.refused.clone();
            let idle = running.calls.is_empty();
            event = tokio::select! {
                biased;
                // Whoever drops the other end says `Shutdown` and `WorkReturned` first.
                Some(control) = self.control.recv() => control,
                () = refused.notified() => match &running.leadership {
                    Some(leadership) => Event::FenceRefused(leadership.term()),
                    None => Event::Tick,
                },
                Some(done) = running.calls.join_next_with_id(), if !idle => self.answered(&mut running, done),
                () = self.holder_is_dead.notified() => Event::HolderIsDead,
                news = running.connection.news() => match news {
                    Ok(event) => {
                        if let Event::Watching(live) = event {
                            self.report(EventKind::Watching(live));
                        }
                        event
                    }
                    Err(gone) => self.gone(&mut running, gone),
                },
                () = sleep_until(&self.clock, wake) => Event::Tick,
            };
        }
    }

    /// The store is gone, and the process that is started next may find a restored one. It will have seen nothing, so a
    /// candidate waits in its stead, as it would have waited itself (T-6). A holder knows that nobody else acts.
    async fn wait_for_the_next_process(&mut self, running: &Running) {
        let record = running.state.observation().and_then(|seen| seen.record.as_ref());
        let max_ttl = record.map_or(Duration::ZERO, Record::max_ttl).max(self.rules.who.max_ttl);
        tokio::select! {
            biased;
            _ = self.control.recv() => {}
            () = self.clock.sleep_until(self.clock.now().plus(lengthened(max_ttl))) => {}
        }
    }

    fn opener(&self, connector: &Arc<dyn Connector>) -> Opener {
        Opener {
            connector: connector.clone(),
            clock: self.clock.clone(),
            limit: self.rules.who.ttl.max(SHORTEST_CONNECT_LIMIT),
            pause: self.rules.retry_every,
            tell: self.teller(),
        }
    }

    /// Connects, again and again; `None` if told to stop meanwhile.
    async fn connect(&mut self, opener: &Opener) -> Result<Option<Arc<dyn LeaseBackend>>, BackendError> {
        let backend = tokio::select! {
            biased;
            _ = self.control.recv() => return Ok(None),
            backend = opener.open(|error| error.refused) => backend?,
        };
        self.store_works(&[CONNECT]);
        Ok(Some(backend))
    }

    /// Moves the lease into `to`, unless it lives there already. The backend to go on with; `None` if told to stop
    /// meanwhile.
    async fn move_here(
        &mut self,
        mut to: Arc<dyn LeaseBackend>,
    ) -> Result<Option<Arc<dyn LeaseBackend>>, BackendError> {
        let Some(from) = self.migrate_from.clone() else { return Ok(Some(to)) };
        // Once it has been moved, the old store is not needed any more.
        let lives_here =
            |seen: &Observation| seen.record.as_ref().is_some_and(|record| record.sealed.is_none());
        if !self.not_moved_yet {
            let seen = tokio::time::timeout(SHORTEST_CONNECT_LIMIT, to.observe(&self.name)).await;
            if matches!(seen, Ok(Ok(seen)) if lives_here(&seen)) {
                self.report(EventKind::Moved);
                return Ok(Some(to));
            }
        }
        let (here, there) = (self.opener(&self.connector), self.opener(&from));
        let to_has = to.capabilities();
        loop {
            let Some(from) = self.connect(&there).await? else { return Ok(None) };
            let job = Move {
                name: self.name.clone(),
                from,
                to: to.clone(),
                max_ttl: self.rules.who.max_ttl,
                poll_every: self.rules.retry_every,
                call_limit: SHORTEST_CONNECT_LIMIT,
                by: self.rules.who.holder.clone(),
                may_move: MayMove::Own { work: self.rules.who.work.clone() },
            };
            let teller = self.teller();
            let tell = move |progress: Progress| teller(EventKind::Moving(progress.to_string()));
            let moved = tokio::select! {
                biased;
                _ = self.control.recv() => return Ok(None),
                moved = job.run(&self.clock, tell) => moved,
            };
            match moved {
                Ok(()) => break,
                // A move may be run again at any step (M-1).
                Err(error @ MigrateError::Disconnected(..)) => {
                    self.report(EventKind::StoreFailed { operation: MOVE, error: error.to_string() });
                }
                Err(error) => return Err(BackendError::refused(error.to_string())),
            }
            drop((job, to));
            let again = self.clock.now().plus(self.rules.retry_every);
            tokio::select! {
                biased;
                _ = self.control.recv() => return Ok(None),
                () = self.clock.sleep_until(again) => {}
            }
            let Some(anew) = self.connect(&here).await? else { return Ok(None) };
            check_is_the_same(&*anew, &to_has)?;
            to = anew;
        }
        self.store_works(&[MOVE]);
        self.report(EventKind::Moved);
        Ok(Some(to))
    }

    /// What was opened is gone for good.
    fn gone(&self, running: &mut Running, error: BackendError) -> Event {
        running.gone = Some((error, running.state.leads(self.clock.now()).is_some()));
        Event::StoreGone
    }

    fn answered(
        &self,
        running: &mut Running,
        done: Result<(tokio::task::Id, Finished), tokio::task::JoinError>,
    ) -> Event {
        let (id, operation, backend, reply) = match done {
            Ok((_, answer)) => answer,
            // The step function dropped it, and that was reported.
            Err(dropped) if dropped.is_cancelled() => return Event::Tick,
            Err(panic) => {
                let call = running.under_way.iter().find(|(_, _, handle)| handle.id() == panic.id());
                let (id, operation) = call.map_or((0, WRITE), |(id, operation, _)| (*id, *operation));
                let error = BackendError::unknown(format!("the backend panicked: {panic}"));
                (id, operation, running.connection.number, Err(error))
            }
        };
        running.under_way.retain(|(call, ..)| *call != id);
        match reply {
            Ok(reply) => {
                // A write's answer shows the register, too; and either comes over a connection.
                self.store_works(if operation == READ { &[CONNECT, READ] } else { &[CONNECT, READ, WRITE] });
                Event::Reply(id, reply)
            }
            Err(error) => {
                let certainty = error.certainty;
                self.report(EventKind::StoreFailed { operation, error: format!("{error:#}") });
                if error.gone {
                    return self.gone(running, error);
                }
                if error.disconnected {
                    running.connection.disconnected(backend);
                }
                Event::Reply(id, Reply::Failed(certainty))
            }
        }
    }

    fn apply(&self, running: &mut Running, event: Event) {
        let mut before = running.state.clone();
        let (now, fresh, jitter) = (self.clock.now(), Fresh::random(), jitter());
        if self.rules.max_silence.is_some()
            && let Some(leadership) = &running.leadership
        {
            let progress = Event::Progressed(leadership.progressed_at());
            before = (self.step)(before, now, progress, &fresh, jitter).0;
        }
        let (state, actions) = (self.step)(before, now, event, &fresh, jitter);
        running.state = state;
        self.show(running);
        for action in actions {
            self.perform(running, action);
        }
    }

    /// Brings the view up to date, before anybody acts on what it shows.
    fn show(&self, running: &Running) {
        let record = running.state.observation().and_then(|seen| seen.record.as_ref());
        self.view.send_replace(Glimpse {
            epoch: record.map(|record| record.epoch),
            beat_at: running.state.beat_at(),
            leadership: running.leadership.clone(),
        });
    }

    fn perform(&self, running: &mut Running, action: Action) {
        let term = running.leadership.as_ref().map(Leadership::term);
        match action {
            Action::Send(id, request) => {
                let operation = if matches!(request, CallRequest::Observe) { READ } else { WRITE };
                let (backend, number) = (running.connection.backend(), running.connection.number);
                let call = call(backend, self.name.clone(), request);
                let call = call.map(move |reply| (id, operation, number, reply));
                running.under_way.push((id, operation, running.calls.spawn(call)));
            }
            Action::Drop(id) => {
                let Some(at) = running.under_way.iter().position(|(call, ..)| *call == id) else { return };
                let (_, operation, call) = running.under_way.remove(at);
                call.abort();
                let error = "no answer within the time limit; its connection is closed".to_owned();
                self.report(EventKind::StoreFailed { operation, error });
            }
            Action::Begin(term, deadline) => {
                // One for each term: a late refusal of an earlier term is not this one's.
                running.refused = Arc::new(Notify::new());
                let leadership = Leadership::new(
                    term,
                    deadline,
                    self.clock.clone(),
                    running.refused.clone(),
                    self.rules.max_silence,
                );
                let remaining = leadership.remaining();
                running.leadership = Some(leadership.clone());
                self.show(running);
                self.report(EventKind::Acquired { term, remaining });
                // One term at a time: the channel has room unless `run_until` is gone, which `control` tells.
                let _ = self.terms.try_send(leadership);
            }
            Action::Extend(deadline) => running.leadership.iter().for_each(|term| term.extend(deadline)),
            Action::TellStop(reason) => {
                if let Some(leadership) = &running.leadership {
                    leadership.tell_stop(reason.clone());
                    self.report(EventKind::StopTold { term: leadership.term(), reason });
                }
            }
            Action::End(loss) => {
                if let Some(leadership) = &running.leadership {
                    leadership.end(loss);
                    self.report(EventKind::Ended { term: leadership.term(), loss });
                }
            }
            Action::Note(Note::OthersWork(theirs)) => running.others_work = Some(theirs),
            Action::Note(note) => {
                running.released |= matches!(note, Note::Released { .. });
                self.note(note, term);
            }
            Action::Stopped => self.report(EventKind::Stopped),
        }
    }

    fn note(&self, note: Note, term: Option<Term>) {
        match (note, term) {
            (Note::Following(other), _) if Some(other) == term => {}
            (Note::Following(term), _) => self.report(EventKind::Following(term)),
            (Note::Revoked { by, note, hold_off }, _) => {
                self.report(EventKind::Revoked { by, note, hold_off });
            }
            (Note::EpochsExhausted(epoch), _) => self.report(EventKind::EpochsExhausted(epoch)),
            (Note::RegisterAbsent, _) if self.rules.creates_registers => {}
            (Note::RegisterAbsent, _) => self.report(EventKind::RegisterAbsent),
            (Note::Sealed(why), _) => self.report(EventKind::Sealed(why)),
            (Note::Rewound { lost, shows }, _) => {
                let (lost, shows) = (lost.to_string(), shows.to_string());
                self.report(EventKind::Rewound { lost, shows });
            }
            (Note::Renewed, Some(term)) => self.report(EventKind::Renewed(term)),
            (Note::Released { answered }, Some(term)) => self.report(EventKind::Released { term, answered }),
            (Note::ReleaseAbandoned, Some(term)) => self.report(EventKind::ReleaseAbandoned(term)),
            (Note::Renewed | Note::Released { .. } | Note::ReleaseAbandoned, None)
            | (Note::OthersWork(_), _) => {}
        }
    }

    fn report(&self, kind: EventKind) {
        self.teller()(kind);
    }

    /// Says so of each of these operations, if it did not.
    fn store_works(&self, operations: &[&'static str]) {
        for operation in operations {
            let failed = lock(&self.failures).remove(operation);
            if let Some((failures, after)) =
                failed.and_then(|mut failed| failed.works(std::time::Instant::now()))
            {
                let (lease, holder) = (self.name.as_str(), self.rules.who.holder.as_str());
                tracing::info!(lease, holder, operation, failures, ?after, "lease store works again");
            }
        }
    }

    /// Reports events, also from a task beside this one.
    fn teller(&self) -> Teller {
        let (events, lease, holder) = (self.events.clone(), self.name.clone(), self.rules.who.holder.clone());
        let failures = self.failures.clone();
        Arc::new(move |kind| {
            let told = match &kind {
                EventKind::StoreFailed { operation, error } => {
                    lock(&failures).entry(operation).or_default().failed(error, std::time::Instant::now())
                }
                _ => Some(0),
            };
            let event = LeaseEvent { lease: lease.clone(), holder: holder.clone(), kind };
            told.into_iter().for_each(|failures| event.log(failures));
            let _ = events.send(event);
        })
    }
}

fn lock(failures: &Mutex<Failures>) -> MutexGuard<'_, Failures> {
    failures.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn call(
    backend: Result<Arc<dyn LeaseBackend>, BackendError>,
    name: LeaseName,
    request: CallRequest,
) -> Result<Reply, BackendError> {
    let backend = backend?;
    match request {
        CallRequest::Observe => backend
            .observe(&name)
            .await
            .map(Reply::Seen)
            .map_err(|error| BackendError { certainty: Certainty::NotApplied, ..error }),
        CallRequest::Put { expected, record, change } => {
            backend.put_if(&name, &expected, &record, change).await.map(Reply::Put)
        }
    }
}

async fn sleep_until(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn jitter() -> Jitter {
    let mut byte = [0];
    getrandom::fill(&mut byte).expect("the operating system's random source must work");
    Jitter(byte[0])
}
