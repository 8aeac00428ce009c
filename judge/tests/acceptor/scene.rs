//! Traces of real electors over the reference store, with something of everything in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lease_core::admin::{self, Init};
use lease_core::internal::step;
use lease_core::{
    BackendError, Capabilities, Change, Clock, Elector, Hints, Leadership, LeaseBackend, LeaseName, Memory,
    Observation, PutOutcome, Record, WorkloadId,
};
use lease_judge::Recorder;
use lease_judge::history::{History, What};
use lease_judge::recording::{Recorded, recorded};
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio::task::JoinHandle;

const TTL: Duration = Duration::from_millis(500);

fn lease() -> LeaseName {
    LeaseName::new("lease").expect("a valid name")
}

/// A store, and everything that happens to its one lease.
struct Scene {
    store: Memory,
    recorder: Recorder,
}

/// One connection of an elector, and its faults.
#[derive(Clone)]
struct Line {
    store: Memory,
    /// The next renewal is applied, and its reply is lost.
    loses_a_reply: Arc<AtomicBool>,
    /// Nothing is answered any more.
    dead: Arc<AtomicBool>,
    /// Whoever has it holds up every call.
    gate: Arc<RwLock<()>>,
}

impl Line {
    async fn pass(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        drop(self.gate.read().await);
    }
}

struct Player {
    line: Line,
    terms: mpsc::UnboundedReceiver<Leadership>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Scene {
    async fn new(store: Memory) -> Self {
        let scene = Self { store, recorder: Recorder::default() };
        let how = Init { new: true, above: 0, max_ttl: TTL };
        admin::init(&scene.by_hand("init"), &lease(), how).await.expect("a new register");
        scene
    }

    fn by_hand(&self, name: &str) -> Recorded {
        Recorded::new(Arc::new(self.store.clone()), self.recorder.clone(), name.to_owned())
    }

    fn tell(&self, actor: &str, what: What) {
        self.recorder.record(&lease(), Clock::boot().now(), actor, what);
    }

    fn start(&self, name: &'static str) -> Player {
        let store = self.store.clone();
        let line = Line { store, loses_a_reply: Arc::default(), dead: Arc::default(), gate: Arc::default() };
        let connected: Arc<dyn LeaseBackend> = Arc::new(line.clone());
        let connector = move || std::future::ready(Ok(connected.clone()));
        self.tell(name, What::Campaigning { ttl_ms: TTL.as_millis() as u64, poll_ms: 200 });
        let step = recorded(self.recorder.clone(), lease(), name.to_owned(), Arc::new(step::step));
        let who = WorkloadId::new(name).expect("a valid name");
        let elector =
            Elector::builder(connector, lease(), who).ttl(TTL).step(step).build().expect("good settings");
        let (tell, terms) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let recorder = self.recorder.clone();
        let ended = tokio::spawn(async move {
            let told = recorder.clone();
            let work = async |leadership: Leadership| {
                let _ = tell.send(leadership.clone());
                while leadership.should_continue() {
                    claim(&told, name, &leadership);
                    tokio::select! {
                        () = tokio::time::sleep(TTL / 6) => {}
                        () = leadership.stop_requested() => {}
                    }
                }
                Ok::<_, BackendError>(())
            };
            let ended = elector.run_until(async { drop(stopped.await) }, work).await;
            ended.expect("nothing ends it but its stop");
            recorder.record(&lease(), Clock::boot().now(), name, What::Left);
        });
        Player { line, terms, stop, ended }
    }

    async fn history(&self) -> History {
        let rows = self.store.history(&lease(), u32::MAX).await.expect("memory answers");
        History { rows: Some(rows), ..self.recorder.history(&lease()) }
    }
}

/// As another thread asks, beside the work.
fn claim(recorder: &Recorder, name: &str, leadership: &Leadership) {
    let from = Clock::boot().now();
    let until = from.plus(leadership.remaining());
    if leadership.is_leader_now() {
        let claimed = What::Claimed { term: leadership.term(), from, until, gap_ms: 50 };
        recorder.record(&lease(), Clock::boot().now(), name, claimed);
    }
}

impl Player {
    async fn leads(&mut self) -> Leadership {
        let led = tokio::time::timeout(Duration::from_secs(20), self.terms.recv()).await;
        led.expect("it leads in time").expect("its elector runs")
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.ended.await.expect("it ends in order");
    }
}

#[async_trait]
impl LeaseBackend for Line {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.pass().await;
        self.store.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.pass().await;
        let outcome = self.store.put_if(name, expected, record, change).await;
        match change == Change::Renew && self.loses_a_reply.swap(false, Ordering::SeqCst) {
            true => Err(BackendError::unknown("the reply was lost")),
            false => outcome,
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.store.watch(prefix).await
    }
}

async fn beats(scene: &Scene, at_least: u64) {
    let beat =
        async || scene.store.observe(&lease()).await.map(|seen| seen.record.map_or(0, |record| record.beat));
    while beat().await.expect("memory answers") < at_least {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A lost reply, a hand-over by request, a death, a takeover, and an end in order.
pub(crate) async fn terms() -> History {
    let scene = Scene::new(Memory::new()).await;
    let mut first = scene.start("first");
    let leads = first.leads().await;
    let mut second = scene.start("second");
    beats(&scene, 1).await;
    first.line.loses_a_reply.store(true, Ordering::SeqCst);
    beats(&scene, 4).await;
    admin::request_step_down(&scene.by_hand("operator"), &lease(), "operator").await.expect("a holder");
    second.leads().await;
    assert!(!leads.is_leader_now());
    beats(&scene, 2).await;
    second.line.dead.store(true, Ordering::SeqCst);
    scene.tell("second", What::Died);
    first.leads().await;
    beats(&scene, 1).await;
    first.stop().await;
    second.ended.abort();
    scene.history().await
}

/// A register that an administrator deletes, and its holder makes anew.
pub(crate) async fn deleted() -> History {
    let scene = Scene::new(Memory::new().losing_registers()).await;
    let mut holder = scene.start("holder");
    let leads = holder.leads().await;
    let shut = holder.line.gate.write().await;
    let from = Clock::boot().now();
    scene.store.delete(&lease());
    scene.tell("store", What::Outside { from, deleted: true });
    drop(shut);
    leads.lost().await;
    holder.leads().await;
    holder.stop().await;
    scene.history().await
}
