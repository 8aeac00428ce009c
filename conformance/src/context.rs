//! A case's tools: the store, fresh names, actors, and the history that is judged at its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use lease_core::internal::lease_thread;
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Change, Clock, Grant, LeaseBackend, LeaseName, Observation, PutOutcome, Record, admin};
use lease_judge::actor::{ActorProcess, EffectOrders, Orders};
use lease_judge::history::{Effects, History, HistoryEntry, What};
use lease_judge::recording::Recorded;
use lease_judge::{FencedResource, Patience, Recorder, acceptor, in_brief, invariants};

use crate::actor::{Actor, ActorSpec, Cast};
use crate::harness::{Harness, Missing};
use crate::step::Core;
use crate::tap::Tap;

pub(crate) struct Cx {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) recorder: Recorder,
    pub(crate) patience: Patience,
    cast: Arc<Cast>,
    unique: String,
    resources: Mutex<Vec<Resource>>,
    actors: AtomicU64,
    aside: Option<Aside>,
    /// The same case on other stores.
    elsewhere: Mutex<Vec<Arc<Cx>>>,
}

/// The recorders of a case that isn't judged by the acceptor: a mutant is to be seen by its trial itself.
pub(crate) type Aside = Arc<Mutex<Vec<Recorder>>>;

impl Cx {
    /// With `aside` the case is judged by the invariants alone.
    pub(crate) fn new(
        harness: Arc<dyn Harness>,
        core: Core,
        patience: Patience,
        aside: Option<Aside>,
    ) -> Arc<Self> {
        let unique = format!("{}-{:.10}", harness.prefix(), Grant::random().to_string());
        let recorder = Recorder::default();
        aside.iter().for_each(|aside| aside.lock().expect("not poisoned").push(recorder.clone()));
        Arc::new(Self {
            cast: Cast::new(harness.clone(), core, recorder.clone(), patience),
            harness,
            recorder,
            patience,
            unique,
            resources: Mutex::default(),
            actors: AtomicU64::new(0),
            aside,
            elsewhere: Mutex::default(),
        })
    }

    /// The same case on another store. The case judges what happens there by itself; if it fails, that is told with the
    /// rest.
    pub(crate) fn on(&self, harness: Arc<dyn Harness>) -> Arc<Self> {
        let there = Self::new(harness, self.cast.core.clone(), self.patience, self.aside.clone());
        self.elsewhere.lock().expect("not poisoned").push(there.clone());
        there
    }

    fn everywhere(&self) -> Vec<Arc<Self>> {
        self.elsewhere.lock().expect("not poisoned").clone()
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

    /// The prefix of the names of this case's leases.
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
        self.patience.wait(what, future).await
    }

    // === the store, by hand ===

    /// A connection whose calls are recorded.
    pub(crate) async fn backend(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        Ok(self.recorded(self.harness.connect().await.context("the store must be there")?))
    }

    /// The same connection, recorded.
    pub(crate) fn recorded(&self, inner: Arc<dyn LeaseBackend>) -> Arc<dyn LeaseBackend> {
        Arc::new(Recorded::new(inner, self.recorder.clone(), self.next_name("by-hand")))
    }

    /// Deletes the case's register, as only an administrator would.
    pub(crate) async fn delete(&self) -> Result<(), Missing> {
        self.outside(self.harness.delete(&self.lease()), true).await
    }

    /// The case's store, which is isolated, goes on in another history.
    pub(crate) async fn change_lineage(&self) -> Result<(), Missing> {
        self.outside(self.harness.change_lineage(), false).await
    }

    /// Whatever the registers show afterwards, no call that is recorded wrote it.
    async fn outside(
        &self,
        change: impl Future<Output = Result<(), Missing>>,
        deleted: bool,
    ) -> Result<(), Missing> {
        let from = Clock::boot().now();
        change.await?;
        for lease in self.recorder.leases() {
            self.recorder.record(&lease, Clock::boot().now(), "store", What::Outside { from, deleted });
        }
        Ok(())
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

    /// The default settings of an actor named `holder`.
    pub(crate) fn spec(&self, holder: &str) -> ActorSpec {
        ActorSpec {
            holder: holder.to_owned(),
            lease: self.lease(),
            ttl: self.ttl(),
            max_ttl: None,
            renew_every: None,
            preemptible: false,
            wall_off_ms: 0,
            drains: false,
            tap: Tap::new(),
            shared: None,
            settings: |builder| builder,
        }
    }

    /// An elector that renews and looks as often as any other, and whose term outlasts every stall of the machine: for
    /// cases in which nothing expires.
    pub(crate) fn unhurried(&self, holder: &str) -> ActorSpec {
        let (ttl, renew_every) = (Duration::from_secs(120), Some(self.ttl() / 3));
        ActorSpec { ttl, renew_every, ..self.spec(holder) }
    }

    /// An elector whose term outlasts a slow call or two: for cases in which it must go on, and others wait for its end.
    pub(crate) fn steady(&self, holder: &str) -> ActorSpec {
        ActorSpec { ttl: self.ttl() * 3, ..self.spec(holder) }
    }

    /// Starts an elector.
    pub(crate) fn start(self: &Arc<Self>, spec: ActorSpec) -> anyhow::Result<Actor> {
        let name = self.next_name(&spec.holder);
        spec.start(&self.cast, name)
    }

    /// Starts an elector with all defaults.
    pub(crate) fn actor(self: &Arc<Self>, holder: &str) -> anyhow::Result<Actor> {
        self.start(self.spec(holder))
    }

    /// Starts an elector in a process of its own. Its effects flow into `resource`.
    pub(crate) fn process(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        resource: Option<&str>,
    ) -> anyhow::Result<ActorProcess> {
        let command = self.harness.actor_command().context("the harness starts no actors")?;
        let orders = Orders {
            lease: self.lease(),
            actor: name.to_owned(),
            holder: holder.to_owned(),
            ttl_ms: ttl.as_millis() as u64,
            effects: resource.map(|resource| EffectOrders {
                resource: resource.to_owned(),
                every_ms: Some(20),
                limit_ms: None,
            }),
            trace: None,
        };
        ActorProcess::start(command, &orders, self.recorder.clone(), self.patience)
    }

    fn next_name(&self, holder: &str) -> String {
        format!("{holder}#{}", self.actors.fetch_add(1, Ordering::Relaxed))
    }

    // === the end ===

    /// Ends all actors.
    pub(crate) async fn end_actors(&self) -> anyhow::Result<()> {
        for there in self.everywhere() {
            there.cast.end().await?;
        }
        self.cast.end().await
    }

    /// Ends all actors, judges the history of every lease by every invariant, and has the acceptor replay it.
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
            let mut violations = invariants::judge(&history);
            if self.aside.is_none() {
                let replayed = self.harness.shows_what_was_written();
                let unexplained = acceptor::explain(&history).into_iter();
                violations.extend(unexplained.filter(|model| replayed || model.rule != "J-2"));
            }
            if !violations.is_empty() {
                let told: Vec<_> = violations.iter().map(ToString::to_string).collect();
                bail!("{}\n{}", told.join("\n"), history.tell());
            }
        }
        Ok(())
    }

    /// The history of `lease` so far.
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

    /// Did the machine keep an elector of the case from running, for longer than its calls may take?
    pub(crate) async fn stood_still(&self) -> bool {
        // Whatever has woken up there by now takes its turn first, and takes note of what kept it.
        lease_thread::handle().spawn(async {}).await.expect("the lease thread lives as long as the process");
        let stood_still = |event: &HistoryEntry| event.what == What::Paused;
        let leases = self.recorder.leases();
        leases.iter().any(|lease| self.recorder.history(lease).events.iter().any(stood_still))
    }

    /// The last lines of what happened, for a failure's message.
    pub(crate) fn tell(&self) -> String {
        let mut told = Vec::new();
        for recorder in self.everywhere().iter().map(|there| &there.recorder).chain([&self.recorder]) {
            told.extend(recorder.leases().iter().map(|lease| recorder.history(lease).tell()));
        }
        match told.is_empty() {
            true => "no call that the suite records: the case failed before its first one".to_owned(),
            false => told.join("\n\n"),
        }
    }
}

/// A lease, and the name of a fenced resource whose effects are judged with it.
type Resource = (LeaseName, String, Arc<dyn FencedResource>);

/// The candidate in whose name a case acquires by hand.
pub(crate) fn candidate(holder: &str, ttl: Duration) -> Candidate {
    Candidate {
        holder: holder.to_owned(),
        region: "here".to_owned(),
        ttl,
        max_ttl: ttl,
        preemptible: false,
        work: None,
    }
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
            in_brief(record),
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
