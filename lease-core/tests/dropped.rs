//! U-4 above the backends: an elector's run and a move, each dropped at every await in turn. (A backend's own calls are
//! dropped so by the conformance suite, `cancellation::…`.)

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use lease_core::admin::{self, Init};
use lease_core::migrate::{MayMove, Move};
use lease_core::{
    BackendError, Capabilities, Change, Clock, Elector, ElectorBuilder, Leadership, LeaseBackend, LeaseName,
    Memory, Observation, PutOutcome, Record, WorkloadId,
};
use tokio::sync::{mpsc, oneshot};

const TTL: Duration = Duration::from_millis(1_000);
const LIMIT: Duration = Duration::from_secs(20);

fn name() -> LeaseName {
    LeaseName::new("forwarder").unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

/// Polls `future` `polls` times, and drops it. `Some` if it had ended by then.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|cx| {
        left = left.saturating_sub(1);
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A store whose every call awaits before it is carried out and before it answers.
struct Awaiting(Memory);

#[async_trait]
impl LeaseBackend for Awaiting {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        tokio::task::yield_now().await;
        let seen = self.0.observe(name).await;
        tokio::task::yield_now().await;
        seen
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        tokio::task::yield_now().await;
        let outcome = self.0.put_if(name, expected, record, change).await;
        tokio::task::yield_now().await;
        outcome
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { watch: false, ..self.0.capabilities() }
    }
}

fn elector(store: &Memory, holder: &str) -> ElectorBuilder {
    let store = store.clone();
    let connector = move || {
        let backend: Arc<dyn LeaseBackend> = Arc::new(Awaiting(store.clone()));
        async move {
            tokio::task::yield_now().await;
            Ok(backend)
        }
    };
    Elector::builder(connector, name(), WorkloadId::new(holder).unwrap()).ttl(TTL)
}

/// Its work begins, is told to stop, and drains for a few awaits.
fn run(elector: Elector, begun: mpsc::UnboundedSender<Leadership>) -> impl Future<Output = bool> {
    let (began, seen) = oneshot::channel::<()>();
    let mut began = Some(began);
    let shutdown = async move {
        let _ = seen.await;
    };
    let run = elector.run_until(shutdown, move |leadership| {
        let _ = begun.send(leadership.clone());
        let began = began.take();
        async move {
            drop(began);
            leadership.stop_requested().await;
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            Ok::<_, String>(())
        }
    });
    async move { run.await.is_ok() }
}

/// Whether the elector's run had ended after so many polls.
async fn elector_dropped_after(polls: usize) -> bool {
    let store = Memory::new();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let ended = dropped_after(polls, run(elector(&store, "a").build().unwrap(), begin)).await;
    // Told to nobody, since nobody is left to tell: but no check of a dropped run is true beside a successor's.
    let (begin_next, mut next) = mpsc::unbounded_channel();
    let next_run = tokio::spawn(run(elector(&store, "b").build().unwrap(), begin_next));
    let successor = soon("the successor", next.recv()).await.expect("it leads");
    if let Ok(dropped) = begun.try_recv() {
        assert!(!dropped.is_leader_now(), "after {polls} polls: two lead");
        assert!(dropped.term().epoch < successor.term().epoch, "after {polls} polls");
    }
    assert!(soon("the successor's end", next_run).await.unwrap());
    let record = store.observe(&name()).await.unwrap().record.unwrap();
    assert_eq!(record.grant, None, "after {polls} polls: the register is usable, and free");
    ended == Some(true)
}

#[tokio::test]
async fn an_elector_dropped_at_any_await_leaves_a_lease_that_another_one_takes() {
    let ended = join_all((1..40).map(elector_dropped_after)).await;
    assert!(!ended[0] && *ended.last().unwrap(), "from the first await to the end: {ended:?}");
}

async fn move_dropped_after(polls: usize) -> bool {
    let [from, to] = [(); 2].map(|()| Memory::new().losing_registers());
    let how = Init { new: true, above: 0, max_ttl: TTL };
    admin::init(&from, &name(), how).await.unwrap();
    let job = Move {
        name: name(),
        from: Arc::new(Awaiting(from.clone())),
        to: Arc::new(Awaiting(to.clone())),
        max_ttl: TTL,
        poll_every: Duration::from_millis(20),
        call_limit: LIMIT,
        by: "somebody".to_owned(),
        may_move: MayMove::Any,
    };
    let clock = Clock::boot();
    let ended = dropped_after(polls, job.run(&clock, |_| {})).await;
    let is_open = async |store: &Memory| {
        store.observe(&name()).await.unwrap().record.is_some_and(|record| record.sealed.is_none())
    };
    let open = [is_open(&from).await, is_open(&to).await];
    assert_ne!(open, [true, true], "after {polls} polls the lease is open in both");
    soon("a second mover", job.run(&clock, |_| {})).await.unwrap();
    assert_eq!([is_open(&from).await, is_open(&to).await], [false, true], "after {polls} polls");
    ended.is_some()
}

#[tokio::test]
async fn a_move_dropped_at_any_await_is_brought_to_its_end_by_the_next() {
    let ended = join_all((1..60).map(move_dropped_after)).await;
    assert!(!ended[0] && *ended.last().unwrap(), "from the first await to the end: {ended:?}");
}
