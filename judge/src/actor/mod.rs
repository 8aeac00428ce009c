//! The actor: a process of its own that campaigns for a lease, makes fenced effects while it leads, and leaves its
//! history. Real signals reach it: SIGKILL, SIGSTOP, SIGTERM.

mod process;
mod program;
mod sampler;
mod teller;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend, LeaseName};
use serde::{Deserialize, Serialize};

pub use process::ActorProcess;
pub use program::actor_main;

use crate::resource::FencedResource;

/// The environment variable that holds an actor's [`Orders`].
const ORDERS: &str = "LEASEHOLD_ACTOR_ORDERS";

/// Tells an actor what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The lease that it campaigns for.
    pub lease: LeaseName,
    /// Its name in the history; no two processes of a run have the same.
    pub actor: String,
    /// The name of its workload.
    pub holder: String,
    /// Its ttl in milliseconds.
    pub ttl_ms: u64,
    /// The effects that it makes while it leads, if any.
    pub effects: Option<EffectOrders>,
    /// The file that its history is appended to. Without one it prints its history, and ends with its standard input
    /// and with the thread that started it.
    pub trace: Option<PathBuf>,
}

/// The fenced effects of an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EffectOrders {
    /// The resource.
    pub resource: String,
    /// The pause between two effects, in milliseconds; without it there is one effect in each term.
    pub every_ms: Option<u64>,
    /// An effect without an answer is given up after this time; without it after half of the ttl (F-1).
    pub limit_ms: Option<u64>,
}

impl Orders {
    /// As variables of the environment, for the command of an actor's process.
    pub fn to_env(&self) -> [(&'static str, String); 1] {
        [(ORDERS, serde_json::to_string(self).expect("plain data"))]
    }

    /// Those of this process.
    ///
    /// # Errors
    /// It was given none.
    pub fn of_this_process() -> anyhow::Result<Self> {
        let orders = std::env::var(ORDERS).with_context(|| format!("{ORDERS} is not set"))?;
        serde_json::from_str(&orders).with_context(|| format!("{ORDERS} holds no orders"))
    }
}

/// The store that an actor works on.
#[async_trait]
pub trait ActorStore: Send + Sync + 'static {
    /// A connection to the leases, made on the thread that will use it.
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError>;

    /// The fenced resource of this name.
    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>>;
}
