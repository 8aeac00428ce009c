//! An actor's process, as the one that started it sees it.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use lease_core::{Clock, Instant, LeaseName, Term};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;

use super::Orders;
use crate::history::{HistoryEntry, What};
use crate::patience::Patience;
use crate::recorder::Recorder;

/// A running actor that prints its history.
pub struct ActorProcess {
    /// Its name in the history.
    pub name: String,
    lease: LeaseName,
    child: Child,
    /// Waiting for the child would close it, and its end is the actor's.
    _stdin: Option<ChildStdin>,
    pid: Pid,
    events: mpsc::UnboundedReceiver<anyhow::Result<What>>,
    recorder: Recorder,
    patience: Patience,
}

impl ActorProcess {
    /// Starts `command`, which ends up in [`actor_main`](super::actor_main). All that the actor prints goes into `recorder`.
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
        command.envs(orders.to_env());
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
                let event = serde_json::from_str::<HistoryEntry>(&line);
                let event = event.map_err(|error| anyhow!("an actor printed no event: {line:?}: {error}"));
                if let Ok(event) = &event {
                    into.record(&lease, event.at, &event.actor, event.what.clone());
                }
                let _ = tell.send(event.map(|event| event.what));
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
                if let Some(answer) = pick(&event?) {
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
        while let Some(event) = self.patience.wait("its last line", self.events.recv()).await? {
            event?;
        }
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
