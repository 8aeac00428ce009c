//! Kubernetes: the etcd behind the API server is restored, or the Leases are replaced.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_stores::k8s::K8sStore;
use lease_stores::{Link, Place, TestStore};
use lease_testbed::{ClusterId, wait_for};
use serde_json::{Value, json};

use super::etcd::bumped;
use super::site::{RestoreKind, RestoreSite};

const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
enum Way {
    /// The API server is stopped meanwhile, or runs on.
    Etcd {
        bumped: bool,
        runs_on: bool,
    },
    Replace,
}

const PLAIN: Way = Way::Etcd { bumped: false, runs_on: false };
const BUMPED: Way = Way::Etcd { bumped: true, runs_on: false };
const ALONE: Way = Way::Etcd { bumped: false, runs_on: true };

const KINDS: [(&str, &str, bool, Way); 5] = [
    ("etcd", "etcd restored, the API server stopped meanwhile", false, PLAIN),
    ("etcd-bumped", "the same, with --bump-revision and --mark-compacted", false, BUMPED),
    ("etcd-alone", "etcd restored under a running API server", false, ALONE),
    ("etcd-before", "etcd alone restored to before the Lease was made", true, ALONE),
    ("replace", "kubectl replace without a uid", false, Way::Replace),
];

pub(super) fn kinds() -> Vec<RestoreKind> {
    let kind = |(name, about, loses_registers, way)| {
        let mut kind = RestoreKind::new(name, about, move || K8sSite::start(way));
        kind.loses_registers = loses_registers;
        kind
    };
    KINDS.map(kind).into()
}

struct K8sSite {
    store: K8sStore,
    way: Way,
    snapshot: Option<PathBuf>,
    objects: Vec<Value>,
}

impl K8sSite {
    async fn start(way: Way) -> anyhow::Result<Self> {
        Ok(Self { store: K8sStore::start().await?, way, snapshot: None, objects: Vec::new() })
    }

    /// As `kubectl replace` does with an object that names no resourceVersion: it takes the present one.
    async fn replace(&self, kept: &Value) -> anyhow::Result<()> {
        let access = self.store.plane()?.access();
        let name = kept["metadata"]["name"].as_str().context("a Lease has a name")?;
        let path = format!("{}/{name}", self.store.leases());
        wait_for("the Lease is replaced between two beats", LIMIT, async || {
            let mut lease = kept.clone();
            let present = access.request("GET", &path, None).await?;
            lease["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
            access.request("PUT", &path, Some(lease)).await.map(drop)
        })
        .await
    }
}

#[async_trait]
impl RestoreSite for K8sSite {
    fn place(&self) -> Place {
        self.store.place()
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        self.store.link()
    }

    async fn back_up(&mut self) -> anyhow::Result<()> {
        let plane = self.store.plane()?;
        match self.way {
            Way::Etcd { .. } => self.snapshot = Some(plane.etcd().snapshot().await?),
            Way::Replace => {
                let list = plane.access().request("GET", &self.store.leases(), None).await?;
                let kept = |lease: &Value| {
                    let (name, annotations) = (&lease["metadata"]["name"], &lease["metadata"]["annotations"]);
                    json!({"metadata": {"name": name, "annotations": annotations}, "spec": lease["spec"]})
                };
                self.objects =
                    list["items"].as_array().context("a list has items")?.iter().map(kept).collect();
            }
        }
        Ok(())
    }

    async fn restore(&mut self) -> anyhow::Result<()> {
        let plane = self.store.plane()?;
        match self.way {
            Way::Etcd { bumped: bumps, runs_on } => {
                let args = if bumps { bumped() } else { Vec::new() };
                let snapshot = self.snapshot.as_ref().context("it was backed up")?;
                if !runs_on {
                    plane.crash().await?;
                }
                plane.etcd().restore_with(snapshot, ClusterId::Same, &args).await?;
                if runs_on { Ok(()) } else { plane.start_again().await }
            }
            Way::Replace => {
                for kept in &self.objects {
                    self.replace(kept).await?;
                }
                Ok(())
            }
        }
    }
}
