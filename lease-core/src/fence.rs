//! The admission rule for effects (F-1): the only thing that makes them safe.
//!
//! No local check is enough: a process can be paused between its check and its effect. The resource itself keeps a
//! **mark**, the greatest term it has admitted, and admits a term in the same atomic write as the effect.
//!
//! Backends bring this rule as a `Fence` for the caller's own writes, with the same surface:
//!
//! | | lease-sqlite, lease-postgres | lease-etcd |
//! | --- | --- | --- |
//! | `Fence::new(resource)` | in the default schema | below the default prefix |
//! | another place | `Fence::in_schema(resource, schema)` (Postgres) | `Fence::in_prefix(resource, prefix)` |
//! | `fence.install(connection)` | makes the table of marks, once | there is nothing to make |
//! | `fence.admit(…, &term)` | `connection` is in the transaction of the effects | `client`, with the effects as operations of the same Txn |
//! | `fence.mark(…)` | the greatest term admitted | the same |
//! | `fence.take_term(connection)` | a new term without a lease, for a single instance | – |
//!
//! `admit` and `take_term` fail with [`FenceError`], all others with the client library's error.

use crate::record::Term;

/// A term that a resource refused: a later one has acted there. Written `FENCING_EPOCH_STALE` in logs and APIs.
///
/// The caller's transaction must be rolled back, the term is over (F-4): stop acting, never raise the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("FENCING_EPOCH_STALE: term {refused} was refused; roll back and stop, a later term has acted here")]
pub struct Stale {
    /// The refused term.
    pub refused: Term,
}

/// Why a term was not admitted. `E` is the error of the client library. The transaction can only be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum FenceError<E: std::error::Error + 'static> {
    /// A later term has acted here: this one is over (F-4). Call
    /// [`Leadership::fence_refused`](crate::Leadership::fence_refused) and stop.
    #[error(transparent)]
    Stale(Stale),
    /// The store did not answer, or refused; nothing is known about the term. May be tried again, from the
    /// transaction's beginning.
    #[error("the fence could not be asked")]
    Store(#[from] E),
}

/// The stable code of [`Stale`].
pub const FENCING_EPOCH_STALE: &str = "FENCING_EPOCH_STALE";

/// **F-1**: given the greatest term that the resource has admitted, decides on `term`. Returns the resource's new mark.
///
/// Admitted if and only if its epoch is greater, or equal with the same grant. For backends and resources of your own;
/// it must be applied in the same atomic write as the effect.
///
/// # Errors
/// [`Stale`]: the effect must not be made.
pub fn admit(mark: Option<Term>, term: Term) -> Result<Term, Stale> {
    match mark {
        Some(mark) if term.epoch < mark.epoch || (term.epoch == mark.epoch && term.grant != mark.grant) => {
            Err(Stale { refused: term })
        }
        _ => Ok(term),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Grant;

    fn term(epoch: u64, grant: u128) -> Term {
        Term { epoch, grant: Grant(grant) }
    }

    #[test]
    fn admits_the_first_the_same_and_every_later_term() {
        assert_eq!(admit(None, term(1, 1)), Ok(term(1, 1)));
        assert_eq!(admit(Some(term(5, 1)), term(5, 1)), Ok(term(5, 1)));
        assert_eq!(admit(Some(term(5, 1)), term(6, 2)), Ok(term(6, 2)));
    }

    #[test]
    fn refuses_an_earlier_term_and_another_grant_of_the_same_epoch() {
        assert!(admit(Some(term(5, 1)), term(4, 1)).is_err());
        assert!(admit(Some(term(5, 1)), term(5, 2)).is_err());
    }
}
