//! The actors in processes of their own: this very program, told by its environment where the suite works.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use lease_conformance::{Harness, actor_main};
use serde::{Deserialize, Serialize};

use super::{etcd, k8s, postgres, sqlite};

/// The subcommand.
pub(super) const COMMAND: &str = "conformance-actor";
/// The variable. It may hold a password, so it is no argument.
pub(super) const PLACE: &str = "LEASEHOLD_LAB_CONFORMANCE_PLACE";

#[derive(Serialize, Deserialize)]
pub(super) enum Place {
    Etcd(etcd::At),
    K8s(k8s::At),
    Postgres(postgres::At),
    Sqlite(sqlite::At),
}

impl Place {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    fn open(self) -> anyhow::Result<Arc<dyn Harness>> {
        Ok(match self {
            Self::Etcd(at) => Arc::new(at.open()),
            Self::K8s(at) => Arc::new(at.open()),
            Self::Postgres(at) => Arc::new(at.open()?),
            Self::Sqlite(at) => Arc::new(sqlite::Files(at)),
        })
    }
}

/// Runs an actor. On a thread of its own, since an actor has a runtime of its own.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let place =
        std::env::var(PLACE).with_context(|| format!("only the suite starts this: {PLACE} is not set"))?;
    let harness = serde_json::from_str::<Place>(&place)?.open()?;
    let actor = std::thread::spawn(move || actor_main(harness));
    actor.join().map_err(|_| anyhow::anyhow!("the actor panicked"))
}
