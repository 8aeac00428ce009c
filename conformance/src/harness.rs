//! The interface that a backend's author implements, so that the suite can judge the backend.

use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_judge::FencedResource;

/// One store, as the suite meets it. `name` and `connect` are all that a first run needs; whatever a harness doesn't
/// offer makes the cases that need it *ignored, because …*.
///
/// ```
/// use std::sync::Arc;
/// use lease_conformance::Harness;
/// use lease_core::{BackendError, LeaseBackend, Memory};
///
/// struct Mine(Memory);
///
/// #[async_trait::async_trait]
/// impl Harness for Mine {
///     fn name(&self) -> &str {
///         "mine"
///     }
///     async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
///         Ok(Arc::new(self.0.clone()))
///     }
/// }
/// ```
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// The store's name, which trial ids begin with.
    fn name(&self) -> &str;

    /// A fresh, independent connection to the same store, as another process would have. Called on the runtime that
    /// will use the connection. What one connection has seen is written on over others.
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError>;

    /// The prefix of the names of the suite's leases, so that a store with other leases in it can be judged.
    fn prefix(&self) -> &str {
        "conformance"
    }

    /// The ttl of cases that wait for an expiry: as short as the store and the machine allow, in whole multiples of
    /// the backend's granularity. One second by default.
    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// This many cases may run at once, 16 by default. They mostly wait, but each has a few connections, and two cases a
    /// hundred electors.
    fn parallel_cases(&self) -> usize {
        16
    }

    /// The facilities that this harness offers besides connections; none by default. The methods of those that it doesn't
    /// name are never called.
    fn facilities(&self) -> &[Facility] {
        &[]
    }

    /// The store's [`Description`](crate::Description) as it is kept in a file (`include_str!`), for a table of what
    /// differs between stores. If there is one, the suite fails where it isn't what holds, and shows what to keep.
    fn description(&self) -> Option<&'static str> {
        None
    }

    /// [`Facility::Delete`]: what only an administrator does.
    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let _ = lease;
        Err(self.missing(Facility::Delete))
    }

    /// [`Facility::Restart`], on an [isolated](Self::isolated) store: stops it, kindly or not, and starts it again. Returns
    /// when it accepts connections.
    async fn restart(&self) -> Result<(), Missing> {
        Err(self.missing(Facility::Restart))
    }

    /// [`Facility::Stop`], on an [isolated](Self::isolated) store: until [`start_again`](Self::start_again) it serves
    /// nobody, and the connections to it are lost.
    async fn stop(&self) -> Result<(), Missing> {
        Err(self.missing(Facility::Stop))
    }

    /// [`Facility::Stop`]: ends it. Returns when the store accepts connections.
    async fn start_again(&self) -> Result<(), Missing> {
        Err(self.missing(Facility::Stop))
    }

    /// [`Facility::Split`], on an [isolated](Self::isolated) store: cuts the replica that leads off from the others, but
    /// not from its clients. Returns when the others serve without it.
    async fn split(&self) -> Result<Split, Missing> {
        Err(self.missing(Facility::Split))
    }

    /// [`Facility::Split`]: ends it.
    async fn heal(&self) -> Result<(), Missing> {
        Err(self.missing(Facility::Split))
    }

    /// [`Facility::Rewind`]: all that the store holds of a register, in its own form, as a backup has it.
    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        let _ = lease;
        Err(self.missing(Facility::Rewind))
    }

    /// [`Facility::Rewind`]: puts back what [`back_up`](Self::back_up) has kept, under open connections and past the
    /// backend: by the store's own means, so that whatever the backend counts by itself is put back, too.
    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        let _ = (lease, kept);
        Err(self.missing(Facility::Rewind))
    }

    /// Answers show registers as they were written. Not so in a view that adds what a clock says, as a sidecar has of the
    /// ledger's scopes: no register leaves such answers, so they are not replayed (J-2).
    fn shows_what_was_written(&self) -> bool {
        true
    }

    /// This many registers are listed at once. Fewer only where it would take minutes to create them.
    fn many(&self) -> usize {
        10_000
    }

    /// [`Facility::ChangeLineage`], on an [isolated](Self::isolated) store: it goes on in another history (R-2), with the same
    /// registers.
    async fn change_lineage(&self) -> Result<(), Missing> {
        Err(self.missing(Facility::ChangeLineage))
    }

    /// [`Facility::RewindFloor`], on an [isolated](Self::isolated) store: puts the floor back to an earlier value, as a
    /// restore does.
    async fn rewind_floor(&self, lease: &LeaseName, floor: u64) -> Result<(), Missing> {
        let _ = (lease, floor);
        Err(self.missing(Facility::RewindFloor))
    }

    /// [`Facility::LoseReply`]: the next write from `connection` reaches the store and is applied, but its reply never
    /// arrives. Returns a connection whose next write is treated so.
    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        Err(self.missing(Facility::LoseReply))
    }

    /// A harness of the same kind, with the same facilities, over an empty store that no other case uses. For cases that
    /// disturb the whole store, or fill it: whoever offers [`Facility::Restart`], [`Facility::Stop`],
    /// [`Facility::Split`], [`Facility::ChangeLineage`] or [`Facility::RewindFloor`] offers this too. The suite drops it at
    /// the end of the case, also of one that failed, panicked or was cancelled; what it has started must end with it.
    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        Err(self.missing(Facility::ChangeLineage))
    }

    /// [`Facility::FencedEffects`]: the resource of this name in the store, fenced by F-1; created if it is new.
    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        let _ = name;
        Err(self.missing(Facility::FencedEffects))
    }

    /// [`Facility::Processes`]: a command that ends up in [`actor_main`](crate::actor_main) with a harness on the same
    /// store. The suite adds the environment that says what to do, a pipe on standard input whose end is the actor's, too,
    /// and reads its standard output.
    fn actor_command(&self) -> Option<Command> {
        None
    }

    /// Why a facility isn't offered: the reason that is shown with the cases that are ignored for it.
    fn why_not(&self, facility: Facility) -> String {
        format!("not judged: the {} harness does not offer {facility}", self.name())
    }

    /// The error of what isn't offered.
    #[doc(hidden)]
    fn missing(&self, facility: Facility) -> Missing {
        Missing(self.why_not(facility))
    }
}

/// A replicated store whose leading replica is cut off: one connection to either part.
pub struct Split {
    /// To the replica that led, and to no other.
    pub minority: Arc<dyn LeaseBackend>,
    /// To the others, which go on without it.
    pub majority: Arc<dyn LeaseBackend>,
}

/// The harness doesn't offer it, or it failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);

impl Missing {
    /// From any error.
    pub fn because(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A facility that a harness may offer besides connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Facility {
    /// [`Harness::delete`]
    Delete,
    /// [`Harness::restart`], on an [isolated](Harness::isolated) store.
    Restart,
    /// [`Harness::stop`], on an [isolated](Harness::isolated) store.
    Stop,
    /// [`Harness::split`], on an [isolated](Harness::isolated) store.
    Split,
    /// [`Harness::change_lineage`], on an [isolated](Harness::isolated) store.
    ChangeLineage,
    /// [`Harness::put_back`]
    Rewind,
    /// [`Harness::rewind_floor`], on an [isolated](Harness::isolated) store.
    RewindFloor,
    /// [`Harness::connect_losing_the_next_reply`]
    LoseReply,
    /// [`Harness::resource`]
    FencedEffects,
    /// [`Harness::actor_command`]
    Processes,
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "deletion by an administrator",
            Self::Restart => "a restart of the store",
            Self::Stop => "a stop of the store",
            Self::Split => "a leading replica that is cut off",
            Self::ChangeLineage => "a change of lineage",
            Self::Rewind => "registers that can be put back",
            Self::RewindFloor => "a floor that can be put back",
            Self::LoseReply => "a lost reply between store and client",
            Self::FencedEffects => "fenced effects",
            Self::Processes => "actors in processes of their own",
        })
    }
}
