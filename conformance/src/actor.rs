//! The electors of a case that run in its own process, and how the case steers them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow};
use lease_core::internal::{StepFn, lease_thread};
use lease_core::{
    BackendError, Clock, Elector, ElectorBuilder, Leadership, LeaseBackend, LeaseName, WallTime, WorkloadId,
};
use lease_judge::history::What;
use lease_judge::recording::recorded;
use lease_judge::{Patience, Recorder};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::Harness;
use crate::step::Core;
use crate::tap::Tap;

/// All electors of a case, and what they share.
pub(crate) struct Cast {
    harness: Arc<dyn Harness>,
    pub(crate) core: Core,
    recorder: Recorder,
    patience: Patience,
    members: Mutex<Vec<Member>>,
    handles: Mutex<Vec<Handle>>,
}

struct Member {
    name: String,
    control: Control,
    tap: Tap,
}

/// A term's handle, kept to see whether it is still true when a later one begins.
struct Handle {
    lease: LeaseName,
    actor: String,
    leadership: Leadership,
    /// Reported already, or of an actor that died.
    done: bool,
}

impl Cast {
    pub(crate) fn new(
        harness: Arc<dyn Harness>,
        core: Core,
        recorder: Recorder,
        patience: Patience,
    ) -> Arc<Self> {
        let (members, handles) = (Mutex::default(), Mutex::default());
        Arc::new(Self { harness, core, recorder, patience, members, handles })
    }

    /// Takes note of a term that begins, and of handles of earlier ones that are still true.
    fn begins(&self, lease: &LeaseName, actor: &str, leadership: &Leadership) {
        let now = Clock::boot().now();
        let mut handles = self.handles.lock().expect("not poisoned");
        for earlier in handles.iter_mut().filter(|handle| handle.lease == *lease && !handle.done) {
            if leadership.is_leader_now() && earlier.leadership.is_leader_now() {
                earlier.done = true;
                let term = earlier.leadership.term();
                self.recorder.record(lease, now, actor, What::StillTrue { term });
            }
        }
        let leadership = leadership.clone();
        handles.push(Handle { lease: lease.clone(), actor: actor.to_owned(), leadership, done: false });
    }

    /// Takes note of a death: from here on nobody asks the actor's own check.
    fn died(&self, lease: &LeaseName, actor: &str) {
        let mut handles = self.handles.lock().expect("not poisoned");
        handles.iter_mut().filter(|handle| handle.actor == actor).for_each(|handle| handle.done = true);
        self.recorder.record(lease, Clock::boot().now(), actor, What::Died);
    }

    /// Ends all electors.
    pub(crate) async fn end(&self) -> anyhow::Result<()> {
        let members: Vec<_> = self.members.lock().expect("not poisoned").drain(..).collect();
        for member in &members {
            member.tap.cut(false);
            if member.tap.is_dead() {
                member.control.abort().await;
            }
            member.control.stop();
        }
        for member in &members {
            self.patience.wait(&format!("{} to end", member.name), member.control.ended()).await?;
        }
        Ok(())
    }
}

/// The settings of an actor; the defaults are the harness's ttl and the case's own lease.
pub(crate) struct ActorSpec {
    pub(crate) holder: String,
    pub(crate) lease: LeaseName,
    pub(crate) ttl: Duration,
    pub(crate) max_ttl: Option<Duration>,
    /// A third of the ttl if it isn't said; a standby polls five times as often.
    pub(crate) renew_every: Option<Duration>,
    pub(crate) preemptible: bool,
    /// This actor's wall clock is off by this much.
    pub(crate) wall_off_ms: i64,
    /// The work goes on after being told to stop until the case lets it return.
    pub(crate) drains: bool,
    pub(crate) tap: Tap,
    /// One connection for several actors.
    pub(crate) shared: Option<Arc<tokio::sync::OnceCell<Arc<dyn LeaseBackend>>>>,
    /// Adjusts further settings.
    pub(crate) settings: fn(ElectorBuilder) -> ElectorBuilder,
}

/// A running elector.
pub(crate) struct Actor {
    pub(crate) name: String,
    pub(crate) tap: Tap,
    pub(crate) lease: LeaseName,
    cast: Arc<Cast>,
    begun: mpsc::UnboundedReceiver<Leadership>,
    control: Control,
    holder_is_dead: Box<dyn Fn() + Send + Sync>,
}

/// Ends an actor.
#[derive(Clone)]
struct Control {
    stop: Arc<watch::Sender<bool>>,
    returns: Arc<watch::Sender<bool>>,
    task: Arc<tokio::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl Control {
    /// Tells the actor to shut down, and its work to return.
    fn stop(&self) {
        self.stop.send_replace(true);
        self.returns.send_replace(true);
    }

    async fn ended(&self) {
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            let _ = running.await;
            *task = None;
        }
    }

    /// Drops the elector, as the end of its process would; nothing that it still says reaches the store.
    async fn abort(&self) {
        if let Some(task) = self.task.lock().await.take() {
            task.abort();
        }
    }
}

impl ActorSpec {
    pub(crate) fn start(self, cast: &Arc<Cast>, name: String) -> anyhow::Result<Actor> {
        let step = self.step(cast, &name);
        // An elector may outlive its case, on the lease thread. The harness and its servers must not.
        let harness = Arc::downgrade(&cast.harness);
        let (tap, shared) = (self.tap.clone(), self.shared.clone());
        let connector = move || {
            let (harness, tap, shared) = (harness.upgrade(), tap.clone(), shared.clone());
            async move {
                let harness = harness.ok_or_else(|| BackendError::gone("the case has ended"))?;
                let inner = match shared {
                    Some(shared) => shared.get_or_try_init(|| harness.connect()).await?.clone(),
                    None => harness.connect().await?,
                };
                Ok::<_, BackendError>(tap.on(inner))
            }
        };
        let workload = WorkloadId::new(self.holder.clone()).map_err(|error| anyhow!("{error}"))?;
        let mut builder = Elector::builder(connector, self.lease.clone(), workload).ttl(self.ttl).step(step);
        if let Some(max_ttl) = self.max_ttl {
            builder = builder.max_ttl(max_ttl);
        }
        if let Some(every) = self.renew_every {
            builder = builder.renew_every(every).retry_every(every / 5);
        }
        if self.preemptible {
            builder = builder.every_effect_is_fenced();
        }
        let elector = (self.settings)(builder).build().map_err(|error| anyhow!("{error}"))?;
        let poll_ms = self.renew_every.unwrap_or(self.ttl / 3).as_millis() as u64;
        let campaigning = What::Campaigning { ttl_ms: self.ttl.as_millis() as u64, poll_ms };
        cast.recorder.record(&self.lease, Clock::boot().now(), &name, campaigning);

        let holder_is_dead = Box::new(elector.holder_is_dead());
        let (begin, begun) = mpsc::unbounded_channel();
        let (stop, mut stopped) = watch::channel(false);
        let (returns, may_return) = watch::channel(!self.drains);
        let work = {
            let (cast, name, lease) = (cast.clone(), name.clone(), self.lease.clone());
            move |leadership: Leadership| {
                cast.begins(&lease, &name, &leadership);
                let _ = begin.send(leadership.clone());
                let mut may_return = may_return.clone();
                async move {
                    leadership.stop_requested().await;
                    let _ = may_return.wait_for(|may| *may).await;
                    Ok::<_, String>(())
                }
            }
        };
        let run = elector.run_until(
            async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            },
            work,
        );
        let (recorder, lease, actor) = (cast.recorder.clone(), self.lease.clone(), name.clone());
        let stalls = takes_note_of_stalls(recorder.clone(), lease.clone(), actor.clone(), self.ttl / 4);
        let stalls = AbortOnDropHandle::new(lease_thread::handle().spawn(stalls));
        let task = tokio::spawn(async move {
            let _stalls = stalls;
            let _ = run.await;
            recorder.record(&lease, Clock::boot().now(), &actor, What::Left);
        });
        let control = Control {
            stop: Arc::new(stop),
            returns: Arc::new(returns),
            task: Arc::new(tokio::sync::Mutex::new(Some(task))),
        };
        let member = Member { name: name.clone(), control: control.clone(), tap: self.tap.clone() };
        cast.members.lock().expect("not poisoned").push(member);
        let cast = cast.clone();
        Ok(Actor { name, tap: self.tap, lease: self.lease, cast, begun, control, holder_is_dead })
    }

    fn step(&self, cast: &Cast, name: &str) -> StepFn {
        let inner = (cast.core)(&self.holder, self.ttl);
        let recorded = recorded(cast.recorder.clone(), self.lease.clone(), name.to_owned(), inner);
        let off = self.wall_off_ms;
        Arc::new(move |state, now, event, fresh, jitter| {
            let mut fresh = fresh.clone();
            fresh.wall = WallTime(fresh.wall.0 + off);
            recorded(state, now, event, &fresh, jitter)
        })
    }
}

/// Runs beside the elector, on its thread. What the machine lets neither of them do is no fault of the store's.
async fn takes_note_of_stalls(recorder: Recorder, lease: LeaseName, actor: String, limit: Duration) {
    let clock = Clock::boot();
    let mut ran_at = clock.now();
    loop {
        clock.sleep_until(ran_at.plus(limit / 4)).await;
        let now = clock.now();
        let stood_still = now.since(ran_at) > limit;
        while stood_still && ran_at < now {
            // So that one is in whatever part of the time is judged.
            recorder.record(&lease, ran_at, &actor, What::Paused);
            ran_at = ran_at.plus(limit / 4);
        }
        ran_at = now;
    }
}

impl Actor {
    /// Waits for its next term.
    pub(crate) async fn leads(&mut self) -> anyhow::Result<Leadership> {
        let begun = self.cast.patience.wait(&format!("{} to lead", self.name), self.begun.recv()).await?;
        begun.with_context(|| format!("{}'s elector ended before it led", self.name))
    }

    /// Waits for its next term, or for its end.
    pub(crate) async fn leads_or_ends(&mut self) -> anyhow::Result<Option<Leadership>> {
        self.cast.patience.wait(&format!("{} to lead or to end", self.name), self.begun.recv()).await
    }

    /// Has a term begun that the case hasn't taken note of?
    pub(crate) fn leads_already(&mut self) -> Option<Leadership> {
        self.begun.try_recv().ok()
    }

    /// Shuts down, and waits for the end.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        self.control.stop();
        self.cast.patience.wait(&format!("{} to stop", self.name), self.control.ended()).await
    }

    /// Tells it to shut down; its work goes on draining if it was made to.
    pub(crate) fn shut_down(&self) {
        self.control.stop.send_replace(true);
    }

    /// Lets draining work return.
    pub(crate) fn work_returns(&self) {
        self.control.returns.send_replace(true);
    }

    /// Cuts it off for good: to everybody else it is dead.
    pub(crate) fn kill(&self) {
        self.tap.kill();
        self.cast.died(&self.lease, &self.name);
    }

    /// Says that the present holder is dead (F-3).
    pub(crate) fn says_holder_is_dead(&self) {
        (self.holder_is_dead)();
    }
}
