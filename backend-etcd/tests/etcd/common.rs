//! Shared by the tests: one node per test binary, and a prefix of its own for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lease_core::writes::{self, Candidate, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::EtcdOptions;
use tokio::sync::OnceCell;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const TTL: Duration = Duration::from_secs(15);

/// The node that the tests share which leave it alone.
pub(crate) async fn node() -> &'static lease_testbed::Etcd {
    static NODE: OnceCell<lease_testbed::Etcd> = OnceCell::const_new();
    let start = async || lease_testbed::Etcd::start(EtcdOptions::default()).await;
    NODE.get_or_init(async || start().await.expect("etcd starts")).await
}

/// A store below a prefix of its own.
pub(crate) struct Store {
    pub(crate) cluster: &'static lease_testbed::Etcd,
    pub(crate) prefix: String,
    pub(crate) config: EtcdConfig,
    pub(crate) backend: Etcd,
}

/// A fresh store on the shared node.
pub(crate) async fn store() -> anyhow::Result<Store> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let cluster = node().await;
    let prefix = format!("/test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let config = EtcdConfig::new(cluster.endpoints())?.prefix(&prefix)?;
    let backend = Etcd::connect(config.clone()).await?;
    Ok(Store { cluster, prefix, config, backend })
}

impl Store {
    /// The key of a part of a lease.
    pub(crate) fn key(&self, lease: &LeaseName, part: &str) -> String {
        format!("{}/leases/{lease}/{part}", self.prefix)
    }

    /// A key's value, empty if there is none.
    pub(crate) async fn value(&self, key: &str) -> anyhow::Result<String> {
        self.cluster.ctl(&["get", "--print-value-only", key]).await
    }
}

pub(crate) fn name(text: &str) -> LeaseName {
    LeaseName::new(text).expect("a valid name")
}

/// The observation that a put left, which must have written.
#[track_caller]
pub(crate) fn written(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Written(observation) => observation,
        PutOutcome::Conflict(found) => panic!("a conflict: {found:?}"),
    }
}

/// The observation that a put found, which must not have written.
#[track_caller]
pub(crate) fn conflict(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Conflict(observation) => observation,
        PutOutcome::Written(wrote) => panic!("it was written: {wrote:?}"),
    }
}

#[track_caller]
pub(crate) fn record(observation: &Observation) -> &Record {
    observation.record.as_ref().expect("a register")
}

/// A free register, made on what is there now.
pub(crate) async fn init(backend: &dyn LeaseBackend, lease: &LeaseName) -> anyhow::Result<Observation> {
    let absent = backend.observe(lease).await?;
    let free = writes::init(&absent, TTL, 0, None, &Fresh::random());
    Ok(written(backend.put_if(lease, &absent, &free, Change::Init).await?))
}

pub(crate) fn acquired(seen: &Observation, holder: &str) -> Record {
    let who = Candidate {
        holder: holder.to_owned(),
        region: "here".to_owned(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
    };
    let fresh = Fresh::random();
    writes::acquire(seen, record(seen), &who, fresh.grant, &fresh)
}

pub(crate) fn renewed(seen: &Observation) -> Record {
    writes::renew(seen, record(seen), &Fresh::random())
}

pub(crate) fn released(seen: &Observation) -> Record {
    writes::release(seen, record(seen), &Fresh::random())
}

pub(crate) async fn acquire(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
    holder: &str,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &acquired(seen, holder), Change::Acquire).await?))
}

pub(crate) async fn renew(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &renewed(seen), Change::Renew).await?))
}

pub(crate) async fn release(
    backend: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> anyhow::Result<Observation> {
    Ok(written(backend.put_if(lease, seen, &released(seen), Change::Release).await?))
}

/// A lease that is held, on what is there now.
pub(crate) async fn held(backend: &dyn LeaseBackend, lease: &LeaseName) -> anyhow::Result<Observation> {
    acquire(backend, lease, &init(backend, lease).await?, "a").await
}
