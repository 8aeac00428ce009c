//! Actors in processes of their own: real signals for what can't be judged within one process.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use async_trait::async_trait;
use lease_core::elector::step;
use lease_core::{
    BackendError, Clock, Elector, Instant, Leadership, LeaseBackend, LeaseName, Term, WorkloadId,
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;

use crate::history::{Event, Recorder, What};
use crate::patience::Patience;
use crate::recording::recorded;
use crate::resource::{EffectError, FencedResource};

/// The environment variable that holds an actor's [`Orders`].
const ORDERS: &str = "LEASEHOLD_ACTOR_ORDERS";

/// Tells an actor process what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The lease that it campaigns for.
    pub lease: LeaseName,
    /// Its name in the history; no two processes have the same.
    pub actor: String,
    /// The name of its workload.
    pub holder: String,
    /// Its ttl in milliseconds.
    pub ttl_ms: u64,
    /// Fenced effects flow into this resource while the actor leads.
    pub resource: Option<String>,
}

/// The store that an actor process works on.
#[async_trait]
pub trait ActorStore: Send + Sync + 'static {
    /// A connection to the leases, made on the thread that will use it.
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError>;

    /// The fenced resource of this name.
    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>>;
}

/// The main function of an actor process: campaigns for a lease until SIGTERM, SIGINT or the end of its standard
/// input, and prints its history on standard output.
pub fn actor_main(store: Arc<dyn ActorStore>) -> ExitCode {
    // Stopped, it would not see that its standard input has ended. The thread that started it is its case's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(act(store))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn act(store: Arc<dyn ActorStore>) -> anyhow::Result<()> {
    let orders = std::env::var(ORDERS).with_context(|| format!("{ORDERS} is not set"))?;
    let orders: Orders = serde_json::from_str(&orders)?;
    let Orders { lease, actor, holder, ttl_ms, resource } = orders;
    let resource = match resource {
        Some(name) => Some(store.resource(&name).await?),
        None => None,
    };
    let pause = pause_on_request()?;
    let recorder = Recorder::printing();
    let campaigning = What::Campaigning { ttl_ms, poll_ms: ttl_ms / 3 };
    recorder.record(&lease, Clock::boot().now(), &actor, campaigning);
    let step = recorded(recorder.clone(), lease.clone(), actor.clone(), Arc::new(step::step));
    let connector = move || {
        let store = store.clone();
        async move { store.connect().await }
    };
    let workload = WorkloadId::new(holder).map_err(|error| anyhow!("{error}"))?;
    let builder =
        Elector::builder(connector, lease.clone(), workload).ttl(Duration::from_millis(ttl_ms)).step(step);
    let elector = builder.build().map_err(|error| anyhow!("{error}"))?;
    let work = |leadership: Leadership| {
        let (recorder, resource, pause) = (recorder.clone(), resource.clone(), pause.clone());
        let (lease, actor) = (lease.clone(), actor.clone());
        async move {
            let Some(resource) = resource else {
                leadership.stop_requested().await;
                return Ok::<_, String>(());
            };
            if let Some(term) = effects_flow(&*resource, &leadership, &pause).await? {
                recorder.record(&lease, Clock::boot().now(), &actor, What::Refused { term });
            }
            Ok(())
        }
    };
    elector.run_until(told_to_stop(), work).await.map(drop).map_err(|error| anyhow!("{error}"))
}

/// Acts again and again, and **never looks at `is_leader_now()`**: only the fence stands between this and harm. Makes
/// one more effect after being told to stop. Returns the term if it was refused.
async fn effects_flow(
    resource: &dyn FencedResource,
    leadership: &Leadership,
    pause: &AtomicBool,
) -> Result<Option<Term>, String> {
    for number in 0_u64.. {
        if pause.swap(false, Ordering::SeqCst) {
            // Between two effects: stopped within one, it would hold the resource's lock, and nobody could act.
            let _ = kill_process(getpid(), Signal::STOP);
        }
        let last = leadership.should_stop();
        let id = format!("{}-{number}", leadership.term());
        match resource.effect(leadership.term(), &id).await {
            Err(EffectError::Stale(stale)) => {
                leadership.fence_refused();
                return Ok(Some(stale.refused));
            }
            // Whether it happened or not: it isn't tried again.
            Ok(()) | Err(EffectError::Failed(_)) => {}
        }
        if last {
            break;
        }
        tokio::select! {
            () = leadership.stop_requested() => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    Ok(None)
}

/// Set by SIGUSR1: the process is to stop itself before its next effect.
fn pause_on_request() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (wanted, mut asked) = (Arc::new(AtomicBool::new(false)), signal(SignalKind::user_defined1())?);
    let pause = wanted.clone();
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            pause.store(true, Ordering::SeqCst);
        }
    });
    Ok(wanted)
}

/// SIGTERM, SIGINT, or the end of whoever started this process.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    // A thread of its own: it also ends a process whose runtime hangs.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(3);
    });
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// An actor process, as the one that started it sees it.
pub struct ActorProcess {
    /// Its name in the history.
    pub name: String,
    lease: LeaseName,
    child: Child,
    /// Waiting for the child would close it, and its end is the actor's.
    _stdin: Option<ChildStdin>,
    pid: Pid,
    events: mpsc::UnboundedReceiver<What>,
    recorder: Recorder,
    patience: Patience,
}

impl ActorProcess {
    /// Starts `command`, which ends up in [`actor_main`]. All that the actor prints goes into `recorder`.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(
        command: Command,
        orders: &Orders,
        recorder: Recorder,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        let mut command = tokio::process::Command::from(command);
        command.env(ORDERS, serde_json::to_string(orders)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("the actor's process must start")?;
        let pid =
            child.id().and_then(|id| Pid::from_raw(id as i32)).context("the actor has ended already")?;
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let stdin = child.stdin.take();
        let (tell, events) = mpsc::unbounded_channel();
        let (into, lease) = (recorder.clone(), orders.lease.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
                into.record(&lease, event.at, &event.actor, event.what.clone());
                let _ = tell.send(event.what);
            }
        });
        let (name, lease) = (orders.actor.clone(), orders.lease.clone());
        Ok(Self { name, lease, child, _stdin: stdin, pid, events, recorder, patience })
    }

    /// Waits for the next event for which `pick` has an answer; `what` completes "waiting for …".
    ///
    /// # Errors
    /// None comes in time, or the process ends.
    pub async fn tells<T>(&mut self, what: &str, pick: impl Fn(&What) -> Option<T>) -> anyhow::Result<T> {
        let what = format!("{} to {what}", self.name);
        let name = self.name.clone();
        let told = async {
            while let Some(event) = self.events.recv().await {
                if let Some(answer) = pick(&event) {
                    return Ok(answer);
                }
            }
            Err(anyhow!("{name} ended before that"))
        };
        self.patience.wait(&what, told).await?.with_context(|| format!("waiting for {what}"))
    }

    /// Waits for its next term.
    ///
    /// # Errors
    /// As [`tells`](Self::tells).
    pub async fn leads(&mut self) -> anyhow::Result<Term> {
        self.tells("lead", |what| match what {
            What::Begun { term, .. } => Some(*term),
            _ => None,
        })
        .await
    }

    /// Makes it stop itself (SIGSTOP) before its next effect, until [`resume`](Self::resume). Returns when it has.
    ///
    /// # Errors
    /// It doesn't in time.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.note(What::Paused);
        self.signal(Signal::USR1)?;
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let stopped = async {
            while waitid(WaitId::Pid(self.pid), options)?.is_none_or(|status| !status.stopped()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(())
        };
        self.patience.wait(&format!("{} to stop itself", self.name), stopped).await?
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL; returns when it is dead.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<Instant> {
        self.signal(Signal::KILL)?;
        self.child.wait().await?;
        Ok(self.note(What::Died))
    }

    /// Sends `signal`, on which it must release and exit with 0.
    ///
    /// # Errors
    /// It doesn't in time.
    pub async fn ends_by(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.signal(signal)?;
        let status = self.patience.wait(&format!("{} to end", self.name), self.child.wait()).await??;
        ensure!(status.success(), "{} ended with {status}", self.name);
        // All that it printed is in the history before the case goes on.
        while self.patience.wait("its last line", self.events.recv()).await?.is_some() {}
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("{} can't be sent {signal:?}", self.name))
    }

    fn note(&self, what: What) -> Instant {
        let now = Clock::boot().now();
        self.recorder.record(&self.lease, now, &self.name, what);
        now
    }
}
