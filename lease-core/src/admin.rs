//! Operators' changes to a register: create it, ask for it, revoke it, raise its epoch, say that its store was restored
//! (T-5, H-2, H-3, F-4, T-6).
//!
//! Each is an observation and a `put_if`, tried again while others write in between; none ever sleeps, and none limits
//! its own time.
//!
//! # Errors
//! [`AdminError`]: match on it to tell a caller's own users what to do.
//!
//! # Cancel safety
//! All are safe to drop at any await, and safe to run again. A dropped one may have been applied.

use std::time::Duration;

use crate::backend::{Change, LeaseBackend, PutOutcome};
use crate::error::BackendError;
use crate::record::{LeaseName, Observation, Record, RequestId, Term};
use crate::revocation::Revocation;
use crate::writes::{self, Fresh};

/// Attempts at one change while others keep writing in between.
const ATTEMPTS: usize = 16;

/// Why an operator's change was not made.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such register: create it with [`init`], if this is the right store.
    #[error("there is no lease {0} in this store: create it with init first")]
    Absent(LeaseName),
    /// Nobody holds the lease, so nobody can be asked or revoked: there is nothing to do.
    #[error("lease {0} is free: there is no term to end")]
    Free(LeaseName),
    /// The register is final (M-1): do it in the store that the lease was moved to.
    #[error("lease {0} was moved: {1}")]
    Sealed(LeaseName, String),
    /// [`init`] above an epoch, on a register that exists below it: use [`fence_raise`].
    #[error("lease {0} exists at epoch {1}: raise it above {2} with fence_raise instead")]
    ExistsBelow(LeaseName, u64, u64),
    /// An epoch so near the ceiling (E-1) that no term could follow: look where the number came from. A mark that is too
    /// high is set back by its `Fence`.
    #[error(
        "epoch {0} is too near the ceiling of epochs: a lease can be lifted above {max} at most", max = Term::MAX_ABOVE
    )]
    AboveCeiling(u64),
    /// Nobody has held the lease, so nobody can hold off: name the workload that shall.
    #[error("lease {0} names no holder that could hold off: name one")]
    NobodyToHoldOff(LeaseName),
    /// Others kept writing in between: run it again.
    #[error("lease {0} changed {ATTEMPTS} times while this was tried: run it again")]
    Contended(LeaseName),
    /// The store failed. If its [`certainty`](BackendError::certainty) is unknown, look before running it again.
    #[error(transparent)]
    Store(#[from] BackendError),
}

/// Settings of [`init`].
#[derive(Clone, Copy, Debug)]
pub struct Init {
    /// Write it free, so that the first candidate leads at once. First installations only: on a store that lost its
    /// registers, two could lead.
    pub new: bool,
    /// An epoch that the new register's terms must exceed, after a loss.
    pub above: u64,
    /// The lease's maximum ttl: how long a closed register is waited out.
    pub max_ttl: Duration,
}

/// Creates the register, unless it exists (T-5). Returns it, and whether this call made it.
///
/// Unless it is [`new`](Init::new), it is made closed: candidates wait for its maximum ttl before the first one leads.
pub async fn init(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    how: Init,
) -> Result<(Observation, bool), AdminError> {
    check_above(how.above)?;
    let seen = backend.observe(name).await?;
    let seen = if seen.record.is_none() {
        let fresh = Fresh::random();
        let record = writes::init(&seen, how.max_ttl, how.above, (!how.new).then_some(fresh.grant), &fresh);
        match backend.put_if(name, &seen, &record, Change::Init).await? {
            PutOutcome::Written(written) => return Ok((written, true)),
            PutOutcome::Conflict(seen) => seen,
        }
    } else {
        seen
    };
    match &seen.record {
        Some(record) if record.epoch < how.above => {
            Err(AdminError::ExistsBelow(name.clone(), record.epoch, how.above))
        }
        Some(_) => Ok((seen, false)),
        None => Err(AdminError::Contended(name.clone())),
    }
}

/// Asks the present holder to step down (H-2): its work is told to stop, and another candidate takes over once it has.
/// The release that answers carries the id in [`Record::answered`]. The request is void for any later holder.
pub async fn request_step_down(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    by: &str,
) -> Result<(RequestId, Observation), AdminError> {
    let id = RequestId::random();
    let written = change(backend, name, Change::Request, |_, record, fresh| {
        let grant = record.grant.ok_or_else(|| AdminError::Free(name.clone()))?;
        Ok(writes::request(record, grant, id, by, fresh))
    })
    .await?;
    Ok((id, written))
}

/// Settings of [`revoke`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Revoke<'a> {
    /// A promise that nothing of the holder runs any more: the register is written free. Two lead if the holder lives.
    pub holder_is_dead: bool,
    /// The name of whoever revokes it, for people.
    pub by: &'a str,
    /// Why: kept in the record and in its history.
    pub note: &'a str,
    /// The workload instance that holds off, if not the last holder.
    pub except: Option<&'a str>,
    /// The time for which it does, by its own clock from when it first sees the revocation. In any case it claims the
    /// lease only two retry intervals after others could.
    pub hold_off: Duration,
}

/// Ends the present term from outside (H-3): a grant that nobody holds, or free if
/// [`holder_is_dead`](Revoke::holder_is_dead) or if the holder had marked its record pre-emptible (F-3). The holder, by
/// its name, comes after the others.
pub async fn revoke(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    how: Revoke<'_>,
) -> Result<Observation, AdminError> {
    change(backend, name, Change::Revoke, |seen, record, fresh| {
        if record.grant.is_none() {
            return Err(AdminError::Free(name.clone()));
        }
        let free = how.holder_is_dead || record.preemptible;
        let mut revoked = writes::revoke(seen, record, 0, free, how.note, fresh);
        let last = Some(record.holder.as_str()).filter(|holder| !holder.is_empty());
        let except = how.except.or(last).map(str::to_owned);
        if except.is_none() && !how.hold_off.is_zero() {
            return Err(AdminError::NobodyToHoldOff(name.clone()));
        }
        let for_ms = how.hold_off.as_millis().try_into().unwrap_or(u64::MAX);
        Revocation { epoch: revoked.epoch, by: how.by.to_owned(), except, for_ms }.keep_in(&mut revoked);
        Ok(revoked)
    })
    .await
}

/// Ends the present term and makes every later one exceed `above`: an operator's answer to a resource that has
/// admitted epochs which the store no longer knows (F-4).
pub async fn fence_raise(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    above: u64,
    note: &str,
) -> Result<Observation, AdminError> {
    check_above(above)?;
    change(backend, name, Change::Revoke, |seen, record, fresh| {
        let mut raised = writes::revoke(seen, record, above, false, note, fresh);
        // The holder did nothing wrong. Whoever holds off since an earlier revocation goes on to.
        let nobody = || Revocation { epoch: 0, by: String::new(), except: None, for_ms: 0 };
        let kept = Revocation::of(record).filter(|kept| kept.for_ms > 0).unwrap_or_else(nobody);
        Revocation { epoch: raised.epoch, ..kept }.keep_in(&mut raised);
        Ok(raised)
    })
    .await
}

/// Says that the store was restored from a backup (T-6): whatever it has forgotten, an acquisition or a beat, is waited
/// out at the lease's maximum ttl, also by processes that start afterwards, and later epochs exceed every one that was
/// lost. A holder that lives and still has its register keeps it.
///
/// For each lease of the store, after the restore and before anything is started. It may be run again at any time: at
/// worst a free lease is taken one maximum ttl later. `above` is an epoch that later ones must exceed at least.
pub async fn restored(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    above: u64,
    note: &str,
) -> Result<Observation, AdminError> {
    check_above(above)?;
    change(backend, name, Change::Restore, |seen, record, fresh| {
        let lost = writes::epochs_lost(seen, fresh.wall).min(Term::MAX_ABOVE);
        Ok(writes::restored(record, lost.max(above), note, fresh))
    })
    .await
}

/// Frees the lease's name for other work (W-1): the next acquisition says which. For work that is gone for good; a holder
/// goes on, and its lease stays its own until it gives it up. Returns the work that was forgotten.
pub async fn forget_work(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
) -> Result<(Option<String>, Observation), AdminError> {
    let mut forgotten = None;
    let written = change(backend, name, Change::Request, |_, record, fresh| {
        forgotten = record.work().map(str::to_owned);
        Ok(writes::forget_work(record, fresh))
    })
    .await?;
    Ok((forgotten, written))
}

fn check_above(above: u64) -> Result<(), AdminError> {
    if above > Term::MAX_ABOVE { Err(AdminError::AboveCeiling(above)) } else { Ok(()) }
}

async fn change(
    backend: &dyn LeaseBackend,
    name: &LeaseName,
    change: Change,
    mut write: impl FnMut(&Observation, &Record, &Fresh) -> Result<Record, AdminError>,
) -> Result<Observation, AdminError> {
    let mut seen = backend.observe(name).await?;
    for _ in 0..ATTEMPTS {
        let Some(record) = &seen.record else { return Err(AdminError::Absent(name.clone())) };
        if let Some(note) = &record.sealed {
            return Err(AdminError::Sealed(name.clone(), note.clone()));
        }
        let next = write(&seen, record, &Fresh::random())?;
        match backend.put_if(name, &seen, &next, change).await? {
            PutOutcome::Written(written) => return Ok(written),
            PutOutcome::Conflict(now) => seen = now,
        }
    }
    Err(AdminError::Contended(name.clone()))
}
