//! A backend that says that it is disconnected is connected anew (`docs/decisions/0095-connected-anew.md`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lease_core::{
    BackendError, Capabilities, Change, Elector, ElectorBuilder, Ended, EventKind, Hints, Leadership,
    LeaseBackend, LeaseEvent, LeaseName, Loss, Memory, Observation, PutOutcome, Record, RunError, StopReason,
    WorkloadId, admin,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::{Stream, StreamExt};

const TTL: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

fn name() -> LeaseName {
    LeaseName::new("forwarder").unwrap()
}

/// One connection to a store.
struct Line {
    store: Memory,
    state: Mutex<State>,
    capabilities: Capabilities,
    /// A held write may go on.
    go: Notify,
    held: Notify,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Up,
    /// Each call fails, and says no more than that.
    Failing,
    Disconnected,
    /// The next write waits, and then says that it is disconnected.
    HoldsOne,
}

impl Line {
    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    async fn pass(&self, writes: bool) -> Result<(), BackendError> {
        let state = *self.state.lock().unwrap();
        match state {
            State::HoldsOne if writes => {
                self.set(State::Up);
                self.held.notify_one();
                self.go.notified().await;
                Err(BackendError::unknown("the line is dead").disconnected())
            }
            State::Up | State::HoldsOne => Ok(()),
            State::Failing => Err(BackendError::unknown("no luck")),
            State::Disconnected => Err(BackendError::unknown("the line is dead").disconnected()),
        }
    }
}

#[async_trait::async_trait]
impl LeaseBackend for Line {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.pass(false).await?;
        self.store.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.pass(true).await?;
        self.store.put_if(name, expected, record, change).await
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.pass(false).await?;
        self.store.watch(prefix).await
    }
}

/// A store that is reached by one line after the other.
#[derive(Clone)]
struct Site {
    store: Memory,
    lines: Arc<Mutex<Vec<Weak<Line>>>>,
    /// Only one line may be open at a time.
    exclusive: bool,
    /// Nobody gets through.
    engaged: Arc<AtomicBool>,
    /// Another one answers from the second line on.
    replaced: bool,
}

impl Site {
    fn new(store: Memory) -> Self {
        Self { store, lines: Arc::default(), exclusive: false, engaged: Arc::default(), replaced: false }
    }

    async fn open(self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        if self.engaged.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut lines = self.lines.lock().unwrap();
        if self.exclusive && lines.iter().any(|line| line.strong_count() > 0) {
            return Err(BackendError::not_applied("the store is open already"));
        }
        let mut capabilities = self.store.capabilities();
        capabilities.list = !self.replaced || lines.is_empty();
        let (state, go, held) = (Mutex::new(State::Up), Notify::new(), Notify::new());
        let line = Arc::new(Line { store: self.store.clone(), state, capabilities, go, held });
        lines.push(Arc::downgrade(&line));
        Ok(line)
    }

    fn elector(&self, holder: &str) -> ElectorBuilder {
        let site = self.clone();
        Elector::builder(move || site.clone().open(), name(), WorkloadId::new(holder).unwrap()).ttl(TTL)
    }

    fn line(&self, index: usize) -> Arc<Line> {
        self.lines.lock().unwrap()[index].upgrade().expect("it is in use")
    }

    fn lines(&self) -> usize {
        self.lines.lock().unwrap().len()
    }
}

type Run = tokio::task::JoinHandle<Result<Ended, RunError<String>>>;

/// Runs an elector whose work says that it leads and then waits to be stopped.
fn run(elector: Elector) -> (mpsc::Receiver<Leadership>, oneshot::Sender<()>, Run) {
    let (began, begun) = mpsc::channel(8);
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let work = move |leadership: Leadership| {
        let began = began.clone();
        async move {
            began.send(leadership.clone()).await.unwrap();
            leadership.stop_requested().await;
            Ok(())
        }
    };
    (begun, stop, tokio::spawn(elector.run_until(shutdown, work)))
}

/// The next event that `wanted` accepts.
async fn event<E: std::fmt::Debug>(
    what: &str,
    events: &mut (impl Stream<Item = Result<LeaseEvent, E>> + Unpin),
    wanted: impl Fn(&EventKind) -> bool,
) {
    soon(what, async { while !wanted(&events.next().await.unwrap().unwrap().kind) {} }).await;
}

#[tokio::test]
async fn a_term_goes_on_over_a_new_connection() {
    let site = Site::new(Memory::new());
    let elector = site.elector("a").build().unwrap();
    let mut events = elector.events();
    let (mut begun, stop, task) = run(elector);
    let term = soon("a term", begun.recv()).await.unwrap();
    event("the watch", &mut events, |kind| *kind == EventKind::Watching(true)).await;
    site.line(0).set(State::Disconnected);
    event("the watch's end", &mut events, |kind| *kind == EventKind::Watching(false)).await;
    event("the new watch", &mut events, |kind| *kind == EventKind::Watching(true)).await;
    event("a beat", &mut events, |kind| *kind == EventKind::Renewed(term.term())).await;
    assert!(term.is_leader_now() && begun.try_recv().is_err(), "it cost a term");
    assert_eq!(site.lines(), 2);
    stop.send(()).unwrap();
    assert_eq!(soon("the end", task).await.unwrap().unwrap(), Ended::Shutdown);
    assert!(site.store.observe(&name()).await.unwrap().grant().is_none(), "released over the new line");
}

#[tokio::test]
async fn a_standby_leads_over_a_new_connection() {
    let store = Memory::new();
    let far = Site::new(store.clone());
    let (mut begun, stop, task) = run(Site::new(store).elector("a").build().unwrap());
    let first = soon("a term", begun.recv()).await.unwrap();
    let standby = far.elector("b").build().unwrap();
    let mut events = standby.events();
    let (mut next, _stop, _task) = run(standby);
    event("its look", &mut events, |kind| *kind == EventKind::Following(first.term())).await;
    far.line(0).set(State::Disconnected);
    event("its failure", &mut events, |kind| matches!(kind, EventKind::StoreFailed { .. })).await;
    stop.send(()).unwrap();
    soon("the end", task).await.unwrap().unwrap();
    let second = soon("the successor", next.recv()).await.unwrap();
    assert!(second.term().epoch > first.term().epoch);
    assert_eq!(far.lines(), 2);
}

/// It may know something of its store that a new one would not, and heal by itself.
#[tokio::test]
async fn a_backend_that_only_fails_is_kept() {
    let site = Site::new(Memory::new());
    let (mut begun, _stop, _task) = run(site.elector("a").build().unwrap());
    let first = soon("a term", begun.recv()).await.unwrap();
    site.line(0).set(State::Failing);
    soon("the loss", first.lost()).await;
    assert_eq!(first.stop_reason(), Some(&StopReason::Expiring));
    site.line(0).set(State::Up);
    soon("a later term", begun.recv()).await.unwrap();
    assert_eq!(site.lines(), 1);
}

#[tokio::test]
async fn a_store_that_lets_only_one_be_open_is_opened_anew() {
    let site = Site { exclusive: true, ..Site::new(Memory::new()) };
    let (mut begun, _stop, _task) = run(site.elector("a").build().unwrap());
    soon("a term", begun.recv()).await.unwrap();
    site.line(0).set(State::Disconnected);
    let opened = async {
        while site.lines() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the new connection", opened).await;
}

#[tokio::test]
async fn a_term_ends_by_its_deadline_and_a_shutdown_is_heard_while_it_connects() {
    let site = Site::new(Memory::new());
    let (mut begun, stop, task) = run(site.elector("a").build().unwrap());
    let term = soon("a term", begun.recv()).await.unwrap();
    site.engaged.store(true, Ordering::SeqCst);
    site.line(0).set(State::Disconnected);
    soon("the loss", term.lost()).await;
    assert_eq!(term.stop_reason(), Some(&StopReason::Expiring));
    stop.send(()).unwrap();
    assert_eq!(soon("the end", task).await.unwrap().unwrap(), Ended::Shutdown);
}

/// What the elector knows of the store would be wrong.
#[tokio::test]
async fn ends_for_good_if_another_kind_of_store_answers() {
    let site = Site { replaced: true, ..Site::new(Memory::new()) };
    let (mut begun, _stop, task) = run(site.elector("a").build().unwrap());
    let term = soon("a term", begun.recv()).await.unwrap();
    site.line(0).set(State::Disconnected);
    assert_eq!(soon("the loss", term.lost()).await, Loss::StoreGone);
    match soon("the end", task).await.unwrap() {
        Err(RunError::Refused(error)) if error.gone => {
            assert!(error.context.contains("list: false"), "it names what has changed: {error}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn what_an_earlier_connection_says_costs_no_later_one() {
    let site = Site::new(Memory::new());
    let elector = site.elector("a").build().unwrap();
    let mut events = elector.events();
    let (mut begun, _stop, _task) = run(elector);
    let term = soon("a term", begun.recv()).await.unwrap();
    let old = site.line(0);
    old.set(State::HoldsOne);
    soon("a beat", old.held.notified()).await;
    // The next one is sent beside it, and is the first to say so.
    old.set(State::Disconnected);
    event("a beat over the new line", &mut events, |kind| *kind == EventKind::Renewed(term.term())).await;
    old.go.notify_one();
    let failed = |kind: &EventKind| matches!(kind, EventKind::StoreFailed { .. });
    event("the old one's failure", &mut events, failed).await;
    event("another beat", &mut events, |kind| *kind == EventKind::Renewed(term.term())).await;
    assert_eq!(site.lines(), 2);
}

#[tokio::test]
async fn a_move_whose_stores_were_disconnected_is_run_again() {
    let (from, to) = (Site::new(Memory::new()), Site::new(Memory::new()));
    let how = admin::Init { new: true, above: 6, max_ttl: TTL };
    admin::init(&from.store, &name(), how).await.unwrap();
    let source = {
        let from = from.clone();
        move || {
            let from = from.clone();
            async move {
                let line = from.clone().open().await?;
                // The first line is dead from the start.
                if from.lines() == 1 {
                    from.line(0).set(State::Disconnected);
                }
                Ok::<_, BackendError>(line)
            }
        }
    };
    let (mut begun, _stop, _task) = run(to.elector("a").migrate_from(source).build().unwrap());
    let term = soon("a term", begun.recv()).await.unwrap();
    assert!(term.term().epoch > 6, "{}", term.term());
    assert_eq!((from.lines(), to.lines()), (2, 2));
    assert!(from.store.observe(&name()).await.unwrap().record.unwrap().sealed.is_some());
}
