//! The interface of every store: to any process that reaches it, and to the one process that runs it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_conformance::{Harness, Missing};
use lease_core::{BackendError, Connector, InvalidSettings, LeaseBackend};
use lease_judge::{EffectError, FencedResource};
use lease_testbed::{Direction, Proxy};

use crate::Place;

/// The operations of a place, in any process that was given it.
#[async_trait]
pub(crate) trait Reach: Send + Sync {
    /// See [`Place::connector`].
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings>;

    /// See [`Place::resource`].
    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>>;

    /// See [`Place::admit_everybody`].
    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()>;

    /// See [`Place::flags`].
    fn flags(&self) -> Vec<String>;

    /// See [`Place::lease_file`].
    fn lease_file(&self) -> Option<PathBuf> {
        None
    }
}

impl Place {
    /// The file with the leases, in a store that is one.
    pub fn lease_file(&self) -> Option<PathBuf> {
        self.reach().lease_file()
    }

    /// Connects to the leases; for an elector.
    ///
    /// # Errors
    /// A setting in the place can't be used.
    pub fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        self.reach().connector()
    }

    /// One connection to the leases.
    ///
    /// # Errors
    /// As the connector's; a setting that can't be used is refused.
    pub async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let connector = self.connector().map_err(|error| BackendError::refused(error.to_string()))?;
        connector.connect().await
    }

    /// The resource of this name, fenced by F-1, in the store itself or beside it; made if it is new, and ready to
    /// write without delay. To be used on the runtime of this call. Only one process may make a resource at a time.
    ///
    /// # Errors
    /// When the store doesn't answer, or lets nobody make it.
    pub async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        self.reach().resource(name).await
    }

    /// Breaks the fence of an existing resource: from now on it admits every term, so that stale effects must show.
    /// Only for resources that are opened afterwards.
    ///
    /// # Errors
    /// When the store doesn't answer.
    pub async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        self.reach().admit_everybody(resource).await
    }

    /// The flags by which the program `leasehold` finds the leases.
    pub fn flags(&self) -> Vec<String> {
        [vec!["--mode".to_owned(), self.mode().as_str().to_owned()], self.reach().flags()].concat()
    }
}

/// A store in the hands of the process that started it, or that was told where it is.
#[async_trait]
pub trait TestStore: Harness {
    /// Its place, for other processes.
    fn place(&self) -> Place;

    /// Removes what was made in it. What was started for it is ended when it is dropped.
    ///
    /// # Errors
    /// When something can't be removed; the message says what is left to do.
    async fn clean_up(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Puts proxies between one client and the store. Returns them, and the place that leads through them; `None`
    /// where there is no network in between.
    ///
    /// # Errors
    /// When a proxy can't be started, or the store is somebody else's.
    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        Ok(None)
    }

    /// The faults that the whole store can have, and how often each is to happen, as a weight.
    fn faults(&self) -> &'static [(u32, StoreFault)];

    /// Makes one of the [`faults`](Self::faults) happen, for this long. Returns when the store serves again.
    ///
    /// # Errors
    /// When it could not be broken, or didn't come back.
    async fn inject(&self, fault: StoreFault, lasts: Duration) -> anyhow::Result<()>;

    /// Makes a database for an application's own data on the same server, and returns its URL; `None` where the
    /// store holds nothing but leases.
    ///
    /// # Errors
    /// When it can't be made.
    async fn database(&self, name: &str) -> anyhow::Result<Option<String>> {
        let _ = name;
        Ok(None)
    }
}

/// A fault of the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreFault {
    /// A clean restart of the server.
    Restart,
    /// SIGKILL of all servers, and a new start.
    Crash,
    /// SIGKILL of the cluster's leading node, or of the API server's etcd, and a new start.
    KillNode,
    /// SIGSTOP of the cluster's leading node, or of the API server.
    PauseNode,
    /// The cluster's leading node is cut off from the others; clients reach it.
    IsolateNode,
    /// Another program holds the write lock of the leases' file.
    LockLeases,
    /// Another program holds the write locks of the effects' files.
    LockEffects,
}

impl StoreFault {
    /// In words, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "store restarted",
            Self::Crash => "store crashed (SIGKILL)",
            Self::KillNode => "store's leading node killed (SIGKILL)",
            Self::PauseNode => "store's leading node paused (SIGSTOP)",
            Self::IsolateNode => "store's leading node cut off from the others",
            Self::LockLeases => "leases' file locked by an outsider",
            Self::LockEffects => "effects' file locked by an outsider",
        }
    }

    /// Whether the store is away while it lasts: then it lasts no longer than a quick restart takes.
    pub fn is_absence(self) -> bool {
        matches!(self, Self::Restart | Self::Crash | Self::KillNode)
    }
}

/// The connections of one client: those to its lease and those to its effects.
#[derive(Clone, Debug)]
pub struct Link(Arc<[Proxy]>);

impl Link {
    /// Of these proxies.
    pub fn new(proxies: impl Into<Arc<[Proxy]>>) -> Self {
        Self(proxies.into())
    }

    /// Ends all connections at once.
    pub async fn cut(&self) {
        for proxy in self.0.iter() {
            proxy.cut().await;
        }
    }

    /// Carries nothing more, in either direction, and closes nothing.
    pub fn hold(&self) {
        self.0.iter().for_each(Proxy::stall);
    }

    /// Delivers what was held, late, and carries on.
    pub fn deliver(&self) {
        self.0.iter().for_each(Proxy::heal);
    }

    /// Carries everything this much later, in both directions together.
    pub fn delay(&self, by: Duration) {
        for proxy in self.0.iter() {
            proxy.set_delay(Direction::ToServer, by / 2);
            proxy.set_delay(Direction::ToClient, by / 2);
        }
    }
}

pub(crate) fn missing(error: anyhow::Error) -> Missing {
    Missing(format!("{error:#}"))
}

pub(crate) fn failed(error: impl std::fmt::Display) -> EffectError {
    EffectError::Failed(error.to_string())
}
