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
    /// disturb the whole store: whoever offers [`Facility::Restart`], [`Facility::ChangeLineage`] or
    /// [`Facility::RewindFloor`] offers this too. The suite drops it at the end of the case, also of one that failed,
    /// panicked or was cancelled; what it has started must end with it.
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
        format!("the {} harness does not offer {facility}", self.name())
    }

    /// The error of what isn't offered.
    #[doc(hidden)]
    fn missing(&self, facility: Facility) -> Missing {
        Missing(self.why_not(facility))
    }
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
    /// [`Harness::change_lineage`], on an [isolated](Harness::isolated) store.
    ChangeLineage,
    /// A register may be written as it was before.
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
            Self::ChangeLineage => "a change of lineage",
            Self::Rewind => "registers that can be put back",
            Self::RewindFloor => "a floor that can be put back",
            Self::LoseReply => "a lost reply between store and client",
            Self::FencedEffects => "fenced effects",
            Self::Processes => "actors in processes of their own",
        })
    }
}
