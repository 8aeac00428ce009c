//! What a case works with: the store, fresh names, actors, and the history that is judged at its end.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use lease_core::elector::{StepFn, step};
use lease_core::writes::{self, Candidate, Fresh};
use lease_core::{
    Change, Clock, Grant, Leadership, LeaseBackend, LeaseName, Observation, PutOutcome, Record, admin,
};

use crate::actor::{Actor, ActorSpec, Control};
use crate::harness::{FencedResource, Harness};
use crate::history::{Effects, History, Recorder, What};
use crate::invariants;
use crate::recording::Recorded;
use crate::tap::Tap;

/// Makes the step function of one actor, given its workload's name and ttl.
pub type Core = Arc<dyn Fn(&str, Duration) -> StepFn + Send + Sync>;

/// The real protocol.
pub fn real_core() -> Core {
    Arc::new(|_, _| Arc::new(step::step))
}

pub(crate) struct Cx {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) core: Core,
    pub(crate) recorder: Recorder,
    /// How long anything is waited for.
    pub(crate) limit: Duration,
    unique: String,
    kept: Mutex<Vec<(String, Control, Tap)>>,
    handles: Mutex<Vec<Handle>>,
    resources: Mutex<Vec<Resource>>,
    actors: AtomicU64,
}

impl Cx {
    pub(crate) fn new(harness: Arc<dyn Harness>, core: Core, limit: Duration) -> Arc<Self> {
        let unique = format!("{}-{:.10}", harness.prefix(), Grant::random().to_string());
        Arc::new(Self {
            harness,
            core,
            recorder: Recorder::default(),
            limit,
            unique,
            kept: Mutex::default(),
            handles: Mutex::default(),
            resources: Mutex::default(),
            actors: AtomicU64::new(0),
        })
    }

    /// The same case on another store: its history is judged together with this one's.
    pub(crate) fn on(self: &Arc<Self>, harness: Arc<dyn Harness>) -> Arc<Self> {
        Self::new(harness, self.core.clone(), self.limit)
    }

    // === names and times ===

    /// The case's own lease.
    pub(crate) fn lease(&self) -> LeaseName {
        self.lease_named("lease")
    }

    pub(crate) fn lease_named(&self, suffix: &str) -> LeaseName {
        LeaseName::new(format!("{}-{suffix}", self.unique))
            .expect("the harness's prefix must be a lease name")
    }

    /// What the names of this case's leases begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.unique
    }

    /// The ttl of cases that wait for an expiry.
    pub(crate) fn ttl(&self) -> Duration {
        self.harness.ttl()
    }

    /// A ttl that no case waits for.
    pub(crate) fn long_ttl(&self) -> Duration {
        Duration::from_secs(3600)
    }

    pub(crate) async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
        let limit = self.limit;
        tokio::time::timeout(limit, future).await.map_err(|_| anyhow!("waited {limit:?} for {what}"))
    }

    // === the store, by hand ===

    /// A connection whose calls are recorded.
    pub(crate) async fn backend(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let inner = self.harness.connect().await.context("the store must be there")?;
        let actor = self.next_name("by-hand");
        Ok(Arc::new(Recorded { inner, recorder: self.recorder.clone(), actor, calls: AtomicU64::new(0) }))
    }

    /// Creates the case's lease, free.
    pub(crate) async fn init(&self) -> anyhow::Result<(Arc<dyn LeaseBackend>, Observation)> {
        self.init_named(&self.lease()).await
    }

    pub(crate) async fn init_named(
        &self,
        lease: &LeaseName,
    ) -> anyhow::Result<(Arc<dyn LeaseBackend>, Observation)> {
        let backend = self.backend().await?;
        let how = admin::Init { new: true, above: 0, max_ttl: self.ttl() };
        let (seen, _) = admin::init(&*backend, lease, how).await?;
        Ok((backend, seen))
    }

    /// Acquires by hand, as `holder` with `ttl`.
    pub(crate) async fn acquire(
        &self,
        backend: &dyn LeaseBackend,
        lease: &LeaseName,
        expected: &Observation,
        holder: &str,
    ) -> anyhow::Result<Observation> {
        let before = expected.record.as_ref().context("nothing to acquire")?;
        let fresh = Fresh::random();
        let record = writes::acquire(expected, before, &candidate(holder, self.ttl()), fresh.grant, &fresh);
        written(backend.put_if(lease, expected, &record, Change::Acquire).await?)
    }

    /// Renews by hand.
    pub(crate) async fn renew(
        &self,
        backend: &dyn LeaseBackend,
        lease: &LeaseName,
        expected: &Observation,
    ) -> anyhow::Result<PutOutcome> {
        let record = writes::renew(expected, record(expected)?, &Fresh::random());
        Ok(backend.put_if(lease, expected, &record, Change::Renew).await?)
    }

    /// Releases by hand.
    pub(crate) async fn release(
        &self,
        backend: &dyn LeaseBackend,
        lease: &LeaseName,
        expected: &Observation,
    ) -> anyhow::Result<PutOutcome> {
        let record = writes::release(expected, record(expected)?, &Fresh::random());
        Ok(backend.put_if(lease, expected, &record, Change::Release).await?)
    }

    /// A fresh fenced resource; its effects are judged with `lease`.
    pub(crate) async fn resource(&self, lease: &LeaseName) -> anyhow::Result<Arc<dyn FencedResource>> {
        let name = format!("{}-resource", self.unique);
        let resource = self.harness.resource(&name).await?;
        self.resources.lock().expect("not poisoned").push((lease.clone(), name, resource.clone()));
        Ok(resource)
    }

    // === electors ===

    /// What an actor named `holder` is made of, unless the case says otherwise.
    pub(crate) fn spec(&self, holder: &str) -> ActorSpec {
        ActorSpec {
            holder: holder.to_owned(),
            lease: self.lease(),
            ttl: self.ttl(),
            max_ttl: None,
            preemptible: false,
            wall_off_ms: 0,
            drains: false,
            tap: Tap::new(),
            shared: None,
            settings: |builder| builder,
        }
    }

    /// An elector whose term outlasts a slow call or two: for cases in which it must go on.
    pub(crate) fn steady(&self, holder: &str) -> ActorSpec {
        ActorSpec { ttl: self.ttl() * 3, ..self.spec(holder) }
    }

    /// Starts an elector.
    pub(crate) fn start(self: &Arc<Self>, spec: ActorSpec) -> anyhow::Result<Actor> {
        let name = self.next_name(&spec.holder);
        spec.start(self, name)
    }

    /// Starts an elector with all defaults.
    pub(crate) fn actor(self: &Arc<Self>, holder: &str) -> anyhow::Result<Actor> {
        self.start(self.spec(holder))
    }

    fn next_name(&self, holder: &str) -> String {
        let number = self.actors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{holder}#{number}")
    }

    pub(crate) fn keep(&self, actor: String, control: Control, tap: Tap) {
        self.kept.lock().expect("not poisoned").push((actor, control, tap));
    }

    /// Takes note of a term that begins, and of handles of earlier ones that are still true.
    pub(crate) fn begins(&self, lease: &LeaseName, actor: &str, leadership: &Leadership) {
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

    /// Takes note of a death: from here on the actor's own check is nobody's concern.
    pub(crate) fn died(&self, lease: &LeaseName, actor: &str) {
        let mut handles = self.handles.lock().expect("not poisoned");
        handles.iter_mut().filter(|handle| handle.actor == actor).for_each(|handle| handle.done = true);
        self.recorder.record(lease, Clock::boot().now(), actor, What::Died);
    }

    // === the end ===

    /// Ends all actors.
    pub(crate) async fn end_actors(&self) -> anyhow::Result<()> {
        let kept: Vec<_> = self.kept.lock().expect("not poisoned").drain(..).collect();
        for (_, control, tap) in &kept {
            tap.cut(false);
            if tap.is_dead() {
                control.abort().await;
            }
            control.stop();
        }
        for (actor, control, _) in &kept {
            self.soon(&format!("{actor} to end"), control.ended()).await?;
        }
        Ok(())
    }

    /// Ends all actors and judges the history of every lease by every invariant.
    pub(crate) async fn judge(&self) -> anyhow::Result<()> {
        self.end_actors().await?;
        let backend = self.harness.connect().await.context("the store must be there at the end")?;
        let mut leases = self.recorder.leases();
        let resources = self.resources.lock().expect("not poisoned").clone();
        leases.extend(resources.into_iter().map(|(lease, ..)| lease));
        leases.sort();
        leases.dedup();
        for lease in leases {
            let history = self.history(&*backend, &lease).await?;
            let violations = invariants::judge(&history);
            if !violations.is_empty() {
                let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
                bail!("{}\n{}", told.join("\n"), history.tell());
            }
        }
        Ok(())
    }

    /// What has happened to `lease` so far.
    pub(crate) async fn history(
        &self,
        backend: &dyn LeaseBackend,
        lease: &LeaseName,
    ) -> anyhow::Result<History> {
        let mut history = self.recorder.history(lease);
        if backend.capabilities().history {
            history.rows = Some(backend.history(lease, 10_000).await?);
        }
        let resources = self.resources.lock().expect("not poisoned").clone();
        for (_, name, resource) in resources.into_iter().filter(|(of, ..)| of == lease) {
            history.effects.push(Effects { resource: name, admitted: resource.effects().await? });
        }
        Ok(history)
    }

    /// The last lines of what happened, for a failure's message.
    pub(crate) fn tell(&self) -> String {
        let leases = self.recorder.leases();
        leases.iter().map(|lease| self.recorder.history(lease).tell()).collect::<Vec<_>>().join("\n\n")
    }
}

/// A fenced resource whose effects are judged with a lease: its name, and itself.
type Resource = (LeaseName, String, Arc<dyn FencedResource>);

/// A term's handle, kept to see whether it is still true when a later one begins.
struct Handle {
    lease: LeaseName,
    actor: String,
    leadership: Leadership,
    /// Told, or not to be looked at any more.
    done: bool,
}

/// Who acquires by hand.
pub(crate) fn candidate(holder: &str, ttl: Duration) -> Candidate {
    Candidate { holder: holder.to_owned(), region: "here".to_owned(), ttl, max_ttl: ttl, preemptible: false }
}

/// The observation of a write that must have been applied.
pub(crate) fn written(outcome: PutOutcome) -> anyhow::Result<Observation> {
    match outcome {
        PutOutcome::Written(observation) => Ok(observation),
        PutOutcome::Conflict(observation) => {
            bail!("this write must be applied, and conflicted with {}", brief(&observation))
        }
    }
}

/// The observation of a write that must not have been applied.
pub(crate) fn conflict(outcome: PutOutcome) -> anyhow::Result<Observation> {
    match outcome {
        PutOutcome::Conflict(observation) => Ok(observation),
        PutOutcome::Written(observation) => {
            bail!("this write must conflict, and was applied: {}", brief(&observation))
        }
    }
}

/// For a failure's message: what is needed to see what is wrong, and the tag to find it by.
fn brief(observation: &Observation) -> String {
    match &observation.record {
        None => format!("absent, lineage {}, floor {}", observation.lineage, observation.floor),
        Some(record) => format!(
            "{}, tag {}, lineage {}, floor {}",
            crate::history::shown(record),
            record.tag,
            observation.lineage,
            observation.floor
        ),
    }
}

/// The record that must be there.
pub(crate) fn record(observation: &Observation) -> anyhow::Result<&Record> {
    observation.record.as_ref().context("the register is absent")
}
