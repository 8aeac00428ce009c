//! The elector: campaigns for a lease, keeps it, and hands it over.

mod builder;
mod connection;
mod driver;
mod messages;
mod run;
pub mod step;
mod timing;

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;

pub use builder::ElectorBuilder;
pub use run::{Ended, RunError};
pub use step::StepFn;
pub use timing::Timing;

use crate::backend::Connector;
use crate::clock::Clock;
use crate::events::LeaseEvent;
use crate::printable::is_hidden;
use crate::record::LeaseName;
use crate::view::{Glimpse, LeaseView};

/// The name of a workload instance, for people: a pod's name, a host's name. Two processes with one name are still
/// two holders, because each acquisition has a grant of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadId(String);

impl WorkloadId {
    /// Any name that isn't empty; at most 253 characters, each of which can be seen: no control character, no line
    /// separator, nothing that reorders or hides others.
    ///
    /// # Errors
    /// The name is none of these; the message says what is allowed.
    pub fn new(name: impl Into<String>) -> Result<Self, crate::InvalidSettings> {
        let name = name.into();
        if name.is_empty() || name.len() > 253 || name.contains(is_hidden) {
            let why =
                "use 1 to 253 characters without control or hidden characters, for example the pod's name"
                    .to_owned();
            return Err(crate::InvalidSettings { setting: "workload id", value: format!("{name:?}"), why });
        }
        Ok(Self(name))
    }

    /// From `LEASEHOLD_WORKLOAD_ID`, `POD_NAME` or `HOSTNAME`, the first that is set; else the kernel's host name.
    ///
    /// # Errors
    /// As for [`new`](Self::new): correct the variable.
    pub fn from_env() -> Result<Self, crate::InvalidSettings> {
        let named =
            ["LEASEHOLD_WORKLOAD_ID", "POD_NAME", "HOSTNAME"].into_iter().find_map(|key| env::var(key).ok());
        Self::new(named.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One candidate for one lease.
///
/// It owns no connection until it runs; then all of its I/O happens on the process's lease thread.
#[must_use = "an elector does nothing until it runs"]
pub struct Elector {
    name: LeaseName,
    rules: step::Rules,
    stop_budget: Duration,
    clock: Clock,
    connector: Arc<dyn Connector>,
    migrate_from: Option<Arc<dyn Connector>>,
    not_moved_yet: bool,
    step: StepFn,
    events: broadcast::Sender<LeaseEvent>,
    view: watch::Sender<Glimpse>,
    holder_is_dead: Arc<Notify>,
}

impl Elector {
    /// Starts to build an elector for the lease `name`, as the workload instance `workload`.
    pub fn builder(connector: impl Connector, name: LeaseName, workload: WorkloadId) -> ElectorBuilder {
        ElectorBuilder::new(Arc::new(connector), name, workload)
    }

    /// The events from here on. A reader that falls more than 256 events behind loses the oldest and is told so.
    pub fn events(&self) -> BroadcastStream<LeaseEvent> {
        BroadcastStream::new(self.events.subscribe())
    }

    /// What it knows of the lease while it runs: for pages and metrics.
    pub fn view(&self) -> LeaseView {
        LeaseView::new(self.clock.clone(), self.view.subscribe())
    }

    /// A handle with which the caller says that the present holder is dead (F-3). It counts only if the holder had
    /// marked its record pre-emptible; otherwise the lease is waited out as ever.
    pub fn holder_is_dead(&self) -> impl Fn() + Send + Sync + 'static {
        let notify = self.holder_is_dead.clone();
        move || notify.notify_one()
    }
}
