//! Between one actor and its store: loses, holds and delays calls, deterministically and for any backend.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use lease_core::{
    BackendError, Capabilities, Change, Hint, Hints, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record,
};
use tokio::sync::{Notify, broadcast};

/// The handle with which a case disturbs one actor's calls.
#[derive(Clone)]
pub(crate) struct Tap(Arc<State>);

struct State {
    reads_cut: AtomicBool,
    writes_cut: AtomicBool,
    dead: AtomicBool,
    /// Connections with a lower number are disconnected.
    connection: AtomicU64,
    watch_muted: AtomicBool,
    plan: Mutex<Option<(Change, Plan)>>,
    hints: broadcast::Sender<Hint>,
    reads: AtomicU64,
    failures: AtomicU64,
    called: Notify,
}

enum Plan {
    /// Applied, but the caller never learns of it.
    LoseReply,
    /// The same, and no later write gets through.
    LoseReplyAndCut,
    /// Never arrives, and the caller learns nothing.
    LoseRequest,
    /// Arrives only when the case lets it, even if the caller has given up by then.
    Hold(HeldWrite),
}

/// A write on its way to the store.
#[derive(Clone, Default)]
pub(crate) struct HeldWrite {
    arrived: Arc<Notify>,
    go: Arc<Notify>,
    done: Arc<Notify>,
    outcome: Arc<Mutex<Option<PutOutcome>>>,
}

impl HeldWrite {
    /// Resolves when the write is held.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Lets it reach the store, and says what the store answered.
    pub(crate) async fn let_go(&self) -> Option<PutOutcome> {
        self.go.notify_one();
        self.done.notified().await;
        self.outcome.lock().expect("not poisoned").clone()
    }
}

impl Tap {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            reads_cut: AtomicBool::new(false),
            writes_cut: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            connection: AtomicU64::new(0),
            watch_muted: AtomicBool::new(false),
            plan: Mutex::new(None),
            hints: broadcast::channel(16).0,
            reads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            called: Notify::new(),
        }))
    }

    /// From here on every call fails at once.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut_writes(cut);
        self.0.reads_cut.store(cut, Ordering::SeqCst);
    }

    /// From here on every write fails at once, its outcome unknown; reads go on.
    pub(crate) fn cut_writes(&self, cut: bool) {
        self.0.writes_cut.store(cut, Ordering::SeqCst);
    }

    /// From here on every call on the present connection fails, and says that it is disconnected; a new one works.
    pub(crate) fn disconnect(&self) {
        self.0.connection.fetch_add(1, Ordering::SeqCst);
    }

    /// A new connection with this tap on it.
    pub(crate) fn on(&self, inner: Arc<dyn LeaseBackend>) -> Arc<dyn LeaseBackend> {
        let number = self.0.connection.load(Ordering::SeqCst);
        Arc::new(Tapped { inner, tap: self.clone(), number })
    }

    /// From here on no call is ever answered or reaches the store: as if the process were gone.
    pub(crate) fn kill(&self) {
        self.0.dead.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::SeqCst)
    }

    /// The watch is live but never says anything. To be called before the actor connects.
    pub(crate) fn mute_watch(&self) {
        self.0.watch_muted.store(true, Ordering::SeqCst);
    }

    /// The watch says that something may have changed, although nothing did.
    pub(crate) fn hint(&self) {
        let _ = self.0.hints.send(Hint::Changed);
    }

    /// The watch shows this, whether it is still true or not.
    pub(crate) fn show(&self, lease: LeaseName, observation: Observation) {
        let _ = self.0.hints.send(Hint::Shows(lease, observation));
    }

    pub(crate) fn lose_next_reply(&self, change: Change) {
        self.plan(change, Plan::LoseReply);
    }

    /// And cuts off the writes after it: nobody needs to be quick then.
    pub(crate) fn lose_next_reply_and_cut_writes(&self, change: Change) {
        self.plan(change, Plan::LoseReplyAndCut);
    }

    pub(crate) fn lose_next_request(&self, change: Change) {
        self.plan(change, Plan::LoseRequest);
    }

    pub(crate) fn hold_next(&self, change: Change) -> HeldWrite {
        let held = HeldWrite::default();
        self.plan(change, Plan::Hold(held.clone()));
        held
    }

    fn plan(&self, change: Change, plan: Plan) {
        *self.0.plan.lock().expect("not poisoned") = Some((change, plan));
    }

    /// Has what was planned happened?
    pub(crate) async fn carried_out(&self) {
        loop {
            let called = self.0.called.notified();
            if self.0.plan.lock().expect("not poisoned").is_none() {
                return;
            }
            called.await;
        }
    }

    /// Resolves when `more` further reads have been made.
    pub(crate) async fn reads(&self, more: u64) {
        self.counted(&self.0.reads, more).await;
    }

    /// The number of reads so far.
    pub(crate) fn read_count(&self) -> u64 {
        self.0.reads.load(Ordering::SeqCst)
    }

    /// Resolves when so many reads have been made in all.
    pub(crate) async fn reads_reach(&self, count: u64) {
        self.counted_to(&self.0.reads, count).await;
    }

    /// Resolves when `more` further calls have failed because the actor is cut off.
    pub(crate) async fn failures(&self, more: u64) {
        self.counted(&self.0.failures, more).await;
    }

    async fn counted(&self, counter: &AtomicU64, more: u64) {
        self.counted_to(counter, counter.load(Ordering::SeqCst) + more).await;
    }

    async fn counted_to(&self, counter: &AtomicU64, until: u64) {
        loop {
            let called = self.0.called.notified();
            if counter.load(Ordering::SeqCst) >= until {
                return;
            }
            called.await;
        }
    }

    fn take(&self, change: Change) -> Option<Plan> {
        let mut plan = self.0.plan.lock().expect("not poisoned");
        let planned = plan.take_if(|(planned, _)| *planned == change);
        if matches!(planned, Some((_, Plan::LoseReplyAndCut))) {
            self.cut_writes(true);
        }
        planned.map(|(_, plan)| plan)
    }

    async fn pass(&self, cut: &AtomicBool, number: u64) -> Result<(), BackendError> {
        if self.0.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let disconnected = number != self.0.connection.load(Ordering::SeqCst);
        if !disconnected && !cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.failures.fetch_add(1, Ordering::SeqCst);
        self.0.called.notify_waiters();
        let error = BackendError::unknown("cut off by the case");
        Err(if disconnected { error.disconnected() } else { error })
    }
}

struct Tapped {
    inner: Arc<dyn LeaseBackend>,
    tap: Tap,
    number: u64,
}

#[async_trait]
impl LeaseBackend for Tapped {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.tap.pass(&self.tap.0.reads_cut, self.number).await?;
        let seen = self.inner.observe(name).await;
        self.tap.0.reads.fetch_add(1, Ordering::SeqCst);
        self.tap.0.called.notify_waiters();
        seen
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.tap.pass(&self.tap.0.writes_cut, self.number).await?;
        let plan = self.tap.take(change);
        self.tap.0.called.notify_waiters();
        let outcome = match &plan {
            Some(Plan::LoseRequest) => return Err(BackendError::unknown("the request was lost by the case")),
            Some(Plan::Hold(held)) => {
                held.arrived.notify_one();
                let (held, inner) = (held.clone(), self.inner.clone());
                let (name, expected, record) = (name.clone(), expected.clone(), record.clone());
                let on_its_way = tokio::spawn(async move {
                    held.go.notified().await;
                    let outcome = inner.put_if(&name, &expected, &record, change).await;
                    *held.outcome.lock().expect("not poisoned") = outcome.as_ref().ok().cloned();
                    held.done.notify_one();
                    outcome
                });
                on_its_way.await.unwrap_or_else(|_| Err(BackendError::unknown("the held write panicked")))
            }
            _ => self.inner.put_if(name, expected, record, change).await,
        };
        match plan {
            Some(Plan::LoseReply | Plan::LoseReplyAndCut) => {
                Err(BackendError::unknown("the reply was lost by the case"))
            }
            _ => outcome,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let muted = self.tap.0.watch_muted.load(Ordering::SeqCst);
        let capabilities = self.inner.capabilities();
        Capabilities { watch: capabilities.watch || muted, ..capabilities }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let spurious = stream::unfold(self.tap.0.hints.subscribe(), |mut hints| async move {
            hints.recv().await.ok().map(|hint| (hint, hints))
        });
        if self.tap.0.watch_muted.load(Ordering::SeqCst) {
            return Ok(Box::pin(spurious));
        }
        let hints = self.inner.watch(prefix).await?;
        Ok(Box::pin(stream::select(hints, spurious.boxed())))
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.inner.history(name, limit).await
    }
}
