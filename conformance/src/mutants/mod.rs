//! Wrong cores, wrong stores and wrong fences, each killed by a named trial: what the suite is worth.
//!
//! A wrong core is a wrapper around the real step function; a wrong store wraps any backend; both are otherwise real.

mod fences;
mod fleets;
mod known;
mod readers;
mod stores;
mod views;
mod writers;

pub use fleets::play_right;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{BackendError, Capabilities, LeaseBackend, LeaseName};
use lease_judge::{FencedResource, Patience};

use crate::cases;
use crate::harness::{Facility, Harness, Missing, Split};
use crate::memory::MemoryHarness;
use crate::step::{Core, real_core};

/// Wraps each connection to one store.
pub(crate) type WrongStore = Arc<dyn Fn(Arc<dyn LeaseBackend>) -> Arc<dyn LeaseBackend> + Send + Sync>;

/// Makes resources instead of the store's own.
pub(crate) type WrongFence = fn() -> Arc<dyn FencedResource>;

/// The part that is wrong.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Core(fn() -> Core),
    Store(fn() -> WrongStore),
    Connection(fn(BackendError) -> BackendError),
    Fence(WrongFence),
}

/// One wrong thing, and the trials that must see it.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// Its mistake.
    pub name: &'static str,
    /// The ids of the cases of which each must fail; none if only an invariant in a simulated fleet sees it.
    pub killers: &'static [&'static str],
    pub(crate) kind: Kind,
    /// It needs a store that can lose its registers.
    pub(crate) losing: bool,
}

/// Every mutant.
pub fn all() -> impl Iterator<Item = &'static Mutant> {
    [
        readers::MUTANTS,
        writers::MUTANTS,
        stores::dangerous::MUTANTS,
        stores::others::MUTANTS,
        fences::MUTANTS,
        known::MUTANTS,
    ]
    .into_iter()
    .flatten()
}

/// The stores under which two may lead, or epochs fall.
pub fn dangerous_stores() -> impl Iterator<Item = &'static Mutant> {
    stores::dangerous::MUTANTS.iter()
}

/// Runs every mutant, a few at a time since trials mostly wait, and prints the table of who killed it.
pub fn run_all(run: impl Fn(&Mutant) -> Fate + Sync) -> Vec<Fate> {
    let mutants: Vec<_> = all().collect();
    let fates: Mutex<Vec<Fate>> = Mutex::default();
    side_by_side(&mutants, |mutant| {
        let fate = run(mutant);
        fates.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(fate);
    });
    let mut fates = fates.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    fates.sort_by(|a, b| a.mutant.cmp(&b.mutant));
    println!("{} mutants, each with the trials that killed it:", fates.len());
    for fate in &fates {
        println!("\n{} ({:.1?})", fate.mutant, fate.took);
        fate.killed_by.iter().for_each(|(id, why)| println!("    killed by {id}\n        {why}"));
        fate.survived.iter().for_each(|id| println!("    SURVIVED  {id}"));
        fate.unexplained.iter().for_each(|(id, rule)| println!("    rejected by {rule} in {id}"));
    }
    fates
}

/// Runs `job` for each item on a few threads.
pub fn side_by_side<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    job(item);
                }
            });
        }
    });
}

/// The result of a mutant's trials.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The mutant: `core: renews by the holder's name`.
    pub mutant: String,
    /// The named trials that failed, with the first line of why.
    pub killed_by: Vec<(&'static str, String)>,
    /// The named trials whose traces the acceptor rejects, and by which of its models.
    pub unexplained: Vec<(&'static str, &'static str)>,
    /// The time that its trials took.
    pub took: Duration,
    /// The named trials that passed all the same.
    pub survived: Vec<&'static str>,
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Core(_) => "core",
            Kind::Store(_) | Kind::Connection(_) => "store",
            Kind::Fence(_) => "fence",
        };
        write!(f, "{kind}: {}", self.name)
    }
}

impl Mutant {
    /// Runs its named trials against it, over the reference backend. `limit` is how long a trial waits for anything.
    pub fn run(&self, limit: Duration) -> Fate {
        let memory = if self.losing { MemoryHarness::losing() } else { MemoryHarness::keeping() };
        self.run_on(Arc::new(memory), limit)
    }

    /// As [`run`](Self::run), over another store. Trials that its harness or its capabilities make ignored are left
    /// out: with none left, nobody killed it and none survived.
    pub fn run_on(&self, inner: Arc<dyn Harness>, limit: Duration) -> Fate {
        let core = match self.kind {
            Kind::Core(make) => make(),
            _ => real_core(),
        };
        let harness: Arc<dyn Harness> = Arc::new(Wrong { inner, kind: self.kind, store: self.store() });
        let began = std::time::Instant::now();
        let mut fate = Fate {
            mutant: self.to_string(),
            killed_by: Vec::new(),
            unexplained: Vec::new(),
            survived: Vec::new(),
            took: Duration::ZERO,
        };
        let capabilities = capabilities(&*harness);
        for &id in self.killers {
            let case = cases::find(id).unwrap_or_else(|| panic!("{self} names no case: {id}"));
            if case.ignored_because(&*harness, &capabilities).is_some() {
                continue;
            }
            let (outcome, unexplained) = case.try_out(harness.clone(), core.clone(), Patience(limit));
            fate.unexplained.extend(unexplained.iter().map(|violation| (id, violation.rule)));
            match outcome {
                Ok(_) => fate.survived.push(id),
                Err(why) => {
                    let first = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
                    fate.killed_by.push((id, first.chars().take(140).collect()));
                }
            }
        }
        fate.took = began.elapsed();
        fate
    }

    fn store(&self) -> Option<WrongStore> {
        match self.kind {
            Kind::Store(make) => Some(make()),
            _ => None,
        }
    }
}

fn capabilities(harness: &dyn Harness) -> Capabilities {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime must start");
    runtime.block_on(harness.connect()).expect("the store must be there").capabilities()
}

/// A harness over a wrong store.
struct Wrong {
    inner: Arc<dyn Harness>,
    kind: Kind,
    store: Option<WrongStore>,
}

impl Wrong {
    fn wrong(&self, inner: Arc<dyn LeaseBackend>) -> Arc<dyn LeaseBackend> {
        match &self.store {
            Some(wrong) => wrong(inner),
            None => inner,
        }
    }
}

#[async_trait]
impl Harness for Wrong {
    fn name(&self) -> &str {
        "wrong"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        match (self.inner.connect().await, self.kind) {
            (Err(error), Kind::Connection(failure)) => Err(failure(error)),
            (connected, _) => Ok(self.wrong(connected?)),
        }
    }

    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    fn facilities(&self) -> &[Facility] {
        self.inner.facilities()
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        self.inner.delete(lease).await
    }

    async fn stop(&self) -> Result<(), Missing> {
        self.inner.stop().await
    }

    async fn start_again(&self) -> Result<(), Missing> {
        self.inner.start_again().await
    }

    async fn split(&self) -> Result<Split, Missing> {
        let Split { minority, majority } = self.inner.split().await?;
        Ok(Split { minority: self.wrong(minority), majority: self.wrong(majority) })
    }

    async fn heal(&self) -> Result<(), Missing> {
        self.inner.heal().await
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        Ok(self.wrong(self.inner.connect_losing_the_next_reply().await?))
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        self.inner.back_up(lease).await
    }

    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        self.inner.put_back(lease, kept).await
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        self.inner.change_lineage().await
    }

    async fn rewind_floor(&self, lease: &LeaseName, floor: u64) -> Result<(), Missing> {
        self.inner.rewind_floor(lease, floor).await
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let inner = self.inner.isolated().await?;
        Ok(Arc::new(Self { inner, kind: self.kind, store: self.store.clone() }))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        match self.kind {
            Kind::Fence(make) => Ok(make()),
            _ => self.inner.resource(name).await,
        }
    }
}
