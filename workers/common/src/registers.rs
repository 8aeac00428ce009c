//! Registers that a role makes by itself: for a work that had none (M-2).

use std::time::Duration;

use lease_core::admin::{self, AdminError, Init};
use lease_core::{Connector, LeaseName};
use lease_settings::{Failure, LeaseStore};

/// What was found or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstRegister {
    /// It is there, at this epoch.
    Exists(u64),
    /// It was made, closed.
    Made,
    /// It is not there, and must not be made.
    Absent,
}

/// Looks for the register, and makes it if `may_make`. Where candidates make absent registers themselves (T-5) it is made
/// in any case: a file that was lost is waited out.
pub(crate) async fn find_or_make(
    store: &LeaseStore,
    lease: &LeaseName,
    may_make: bool,
    how: Init,
) -> Result<FirstRegister, AdminError> {
    let backend = store.connect().await?;
    if let Some(record) = backend.observe(lease).await?.record {
        return Ok(FirstRegister::Exists(record.epoch));
    }
    if !may_make && !backend.capabilities().creates_registers {
        return Ok(FirstRegister::Absent);
    }
    let (seen, made) = admin::init(&*backend, lease, how).await?;
    Ok(if made {
        FirstRegister::Made
    } else {
        FirstRegister::Exists(seen.record.map_or(0, |record| record.epoch))
    })
}

/// Has every later term of the lease exceed `mark`, which terms without a lease have raised: makes the register, closed
/// (T-5), or lifts the one that an earlier time under leases has left (F-4). One of other work is left alone: the elector
/// refuses it (W-1). True if it wrote.
pub(crate) async fn lift_above(
    store: &LeaseStore,
    lease: &LeaseName,
    mark: u64,
    work: &str,
    max_ttl: Duration,
) -> Result<bool, AdminError> {
    let backend = store.connect().await?;
    let seen = backend.observe(lease).await?.record;
    if seen.is_some_and(|record| record.work().is_some_and(|known| known != work)) {
        return Ok(false);
    }
    match admin::init(&*backend, lease, Init { new: false, above: mark, max_ttl }).await {
        Ok((_, made)) => Ok(made),
        Err(AdminError::ExistsBelow(..)) => {
            let note = "led in mode disabled until now";
            admin::fence_raise(&*backend, lease, mark, note).await.map(|_| true)
        }
        Err(error) => Err(error),
    }
}

/// Why a register could not be found or made, and what to do.
pub(crate) fn failure(store: &LeaseStore, error: &AdminError) -> Failure {
    Failure::new(match error {
        AdminError::Sealed(lease, why) => format!(
            "lease {lease} does not live in this store ({store}): {why}; move it here by `leasehold migrate`, or use the \
             mode that it lives in"
        ),
        AdminError::Store(error) => {
            format!("the lease store ({store}) can't be used: {error:#}; {}", store.advice())
        }
        error => format!("the lease store ({store}): {error}"),
    })
}
