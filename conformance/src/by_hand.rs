//! The register by hand, without an elector: for a backend's own tests. What a test has no business with panics.

use std::time::Duration;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{BackendError, Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record};

/// The ttl of every term here.
pub const TTL: Duration = Duration::from_secs(15);

/// A valid name.
#[track_caller]
pub fn name(text: &str) -> LeaseName {
    LeaseName::new(text).expect("a valid name")
}

/// A candidate with this holder's name.
pub fn candidate(holder: &str) -> Candidate {
    let (holder, region) = (holder.to_owned(), "here".to_owned());
    Candidate { holder, region, ttl: TTL, max_ttl: TTL, preemptible: false, work: None }
}

/// The record of a register that must exist.
#[track_caller]
pub fn record(observation: &Observation) -> &Record {
    observation.record.as_ref().expect("a register")
}

/// The observation of a write that must have been applied.
#[track_caller]
pub fn written(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Written(observation) => observation,
        PutOutcome::Conflict(found) => panic!("a conflict with {found:?}"),
    }
}

/// The observation of a write that must not have been applied.
#[track_caller]
pub fn conflict(outcome: PutOutcome) -> Observation {
    match outcome {
        PutOutcome::Conflict(observation) => observation,
        PutOutcome::Written(wrote) => panic!("it was written: {wrote:?}"),
    }
}

/// A free register.
pub fn free(absent: &Observation) -> Record {
    writes::init(absent, TTL, 0, None, &Fresh::random())
}

/// A new term of this holder.
#[track_caller]
pub fn acquired(seen: &Observation, holder: &str) -> Record {
    let fresh = Fresh::random();
    writes::acquire(seen, record(seen), &candidate(holder), fresh.grant, &fresh)
}

/// The present term's next beat.
#[track_caller]
pub fn renewed(seen: &Observation) -> Record {
    writes::renew(seen, record(seen), &Fresh::random())
}

/// The present term, given up.
#[track_caller]
pub fn released(seen: &Observation) -> Record {
    writes::release(seen, record(seen), &Fresh::random())
}

/// Makes a free register where there is none.
///
/// # Errors
/// The store's.
pub async fn init(store: &dyn LeaseBackend, lease: &LeaseName) -> Result<Observation, BackendError> {
    let absent = store.observe(lease).await?;
    Ok(written(store.put_if(lease, &absent, &free(&absent), Change::Init).await?))
}

/// Takes the register that `seen` shows.
///
/// # Errors
/// The store's.
pub async fn acquire(
    store: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
    holder: &str,
) -> Result<Observation, BackendError> {
    Ok(written(store.put_if(lease, seen, &acquired(seen, holder), Change::Acquire).await?))
}

/// Makes a register that `a` holds.
///
/// # Errors
/// The store's.
pub async fn held(store: &dyn LeaseBackend, lease: &LeaseName) -> Result<Observation, BackendError> {
    acquire(store, lease, &init(store, lease).await?, "a").await
}

/// Renews the present term.
///
/// # Errors
/// The store's.
pub async fn renew(
    store: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> Result<Observation, BackendError> {
    Ok(written(store.put_if(lease, seen, &renewed(seen), Change::Renew).await?))
}

/// Gives the present term up.
///
/// # Errors
/// The store's.
pub async fn release(
    store: &dyn LeaseBackend,
    lease: &LeaseName,
    seen: &Observation,
) -> Result<Observation, BackendError> {
    Ok(written(store.put_if(lease, seen, &released(seen), Change::Release).await?))
}
