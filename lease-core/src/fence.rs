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
//! | `fence.lower(…, &lowering)` | an operator's repair of a mark that is too high | the same |
//!
//! `admit` and `take_term` fail with [`FenceError`], all others with the client library's error.

use crate::record::{Grant, Record, Term};

/// A term that a resource refused: a later one has acted there. Written `FENCING_EPOCH_STALE` in logs and APIs.
///
/// The caller's transaction must be rolled back, the term is over (F-4): stop acting, never raise the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("FENCING_EPOCH_STALE: term {refused} was refused; roll back and stop, a later term has acted here")]
pub struct Stale {
    /// The refused term.
    pub refused: Term,
}

/// A term whose epoch no store issues: above the ceiling (E-1). Written `FENCING_EPOCH_ABOVE_CEILING` in logs and APIs.
/// Not admitted, and no later term has acted: once admitted, it would refuse every real term for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "FENCING_EPOCH_ABOVE_CEILING: term {refused} was refused, no epoch is above {max}; look where it comes from",
    max = Term::MAX_EPOCH
)]
pub struct AboveCeiling {
    /// The refused term.
    pub refused: Term,
}

impl AboveCeiling {
    /// Refuses `term` if its epoch is above the ceiling.
    ///
    /// # Errors
    /// It is.
    pub fn check(term: &Term) -> Result<(), Self> {
        if term.epoch > Term::MAX_EPOCH { Err(Self { refused: *term }) } else { Ok(()) }
    }
}

/// A term that F-1 doesn't admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// A later term has acted here.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// No store issues such an epoch.
    #[error(transparent)]
    AboveCeiling(#[from] AboveCeiling),
}

/// Why a term was not admitted. `E` is the error of the client library. The transaction can only be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum FenceError<E: std::error::Error + 'static> {
    /// A later term has acted here: this one is over (F-4). Call
    /// [`Leadership::fence_refused`](crate::Leadership::fence_refused) and stop.
    #[error(transparent)]
    Stale(Stale),
    /// No store issues such an epoch (E-1): nothing was done, and trying again can't help.
    #[error(transparent)]
    AboveCeiling(AboveCeiling),
    /// The store did not answer, or refused; nothing is known about the term. May be tried again, from the
    /// transaction's beginning.
    #[error("the fence could not be asked")]
    Store(#[from] E),
}

impl<E: std::error::Error + 'static> FenceError<E> {
    /// From the answer of [`admit`].
    pub fn refused(refused: NotAdmitted) -> Self {
        match refused {
            NotAdmitted::Stale(stale) => Self::Stale(stale),
            NotAdmitted::AboveCeiling(above) => Self::AboveCeiling(above),
        }
    }
}

/// The repair of a mark that refuses every real term: an operator's change, which leaves a row for audits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowering {
    /// The mark as it was read **before** the register: nothing is changed if it has moved since.
    pub seen: Term,
    /// The new mark.
    pub to: Term,
    /// The name of whoever lowers it.
    pub by: String,
    /// Why.
    pub note: String,
}

/// Why a mark can't be lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoweringError {
    /// Old terms would be let in.
    #[error(
        "epoch {to} is below {issued}, the greatest that the lease's register has issued: use at least that"
    )]
    BelowTheRegister {
        /// The epoch that was asked for.
        to: u64,
        /// The register's epoch.
        issued: u64,
    },
    /// The store was restored, and nobody knows which epochs were issued until the next acquisition.
    #[error(
        "the store was restored, and forgot which epochs were issued after {known}: name the greatest that was real by \
         --to, or lower the mark once somebody has led again"
    )]
    Restored {
        /// The register's epoch.
        known: u64,
    },
    /// A lease may have issued such an epoch: nobody but an operator knows whether one did.
    #[error(
        "the mark is at epoch {seen}, which a lease may have issued: if one has, and the store forgot it, use \
         `leasehold fence raise --above {seen}`; if none ever did, name the greatest that one has by --to"
    )]
    MayBeReal {
        /// The mark's epoch.
        seen: u64,
    },
    /// There is nothing to repair.
    #[error("the mark is at epoch {seen} already: it can only be lowered, and {to} is not below it")]
    NotLower {
        /// The epoch that was asked for.
        to: u64,
        /// The mark's epoch.
        seen: u64,
    },
}

impl Lowering {
    /// Lowers the mark that was `seen` to the register's present term, or to the greater epoch `to`; read the mark first
    /// and then `record`, the register of the lease whose terms act on the resource. `grant` is a fresh one: it stands
    /// for no term, where the new mark isn't the register's own.
    ///
    /// Without `to` the mark must be above [`Term::MAX_ABOVE`], where no lease comes by itself.
    ///
    /// # Errors
    /// [`LoweringError`]: never below what the register has issued.
    pub fn new(
        seen: Term,
        record: &Record,
        to: Option<u64>,
        grant: Grant,
        by: impl Into<String>,
        note: impl Into<String>,
    ) -> Result<Self, LoweringError> {
        if to.is_none() && seen.epoch <= Term::MAX_ABOVE {
            return Err(LoweringError::MayBeReal { seen: seen.epoch });
        }
        if to.is_none() && record.issued() > record.epoch {
            return Err(LoweringError::Restored { known: record.epoch });
        }
        let (issued, to) = (record.epoch, to.unwrap_or(record.epoch));
        if to < issued {
            return Err(LoweringError::BelowTheRegister { to, issued });
        }
        if to >= seen.epoch {
            return Err(LoweringError::NotLower { to, seen: seen.epoch });
        }
        let own = record.grant.filter(|_| to == issued);
        let to = Term { epoch: to, grant: own.unwrap_or(grant) };
        Ok(Self { seen, to, by: by.into(), note: note.into() })
    }
}

/// The stable code of [`Stale`].
pub const FENCING_EPOCH_STALE: &str = "FENCING_EPOCH_STALE";

/// The stable code of [`AboveCeiling`].
pub const FENCING_EPOCH_ABOVE_CEILING: &str = "FENCING_EPOCH_ABOVE_CEILING";

/// **F-1**: given the greatest term that the resource has admitted, decides on `term`. Returns the resource's new mark.
///
/// Admitted if and only if its epoch is greater, or equal with the same grant. For backends and resources of your own;
/// it must be applied in the same atomic write as the effect.
///
/// # Errors
/// [`NotAdmitted`]: the effect must not be made.
pub fn admit(mark: Option<Term>, term: Term) -> Result<Term, NotAdmitted> {
    AboveCeiling::check(&term)?;
    match mark {
        Some(mark) if term.epoch < mark.epoch || (term.epoch == mark.epoch && term.grant != mark.grant) => {
            Err(Stale { refused: term }.into())
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
    fn refuses_what_no_store_issues_whatever_the_mark_is() {
        assert_eq!(admit(None, term(Term::MAX_EPOCH, 1)), Ok(term(Term::MAX_EPOCH, 1)));
        for mark in [None, Some(term(5, 1)), Some(term(u64::MAX, 1))] {
            let refused = term(Term::MAX_EPOCH + 1, 1);
            assert_eq!(admit(mark, refused), Err(AboveCeiling { refused }.into()), "after {mark:?}");
        }
    }

    #[test]
    fn refuses_an_earlier_term_and_another_grant_of_the_same_epoch() {
        assert!(admit(Some(term(5, 1)), term(4, 1)).is_err());
        assert!(admit(Some(term(5, 1)), term(5, 2)).is_err());
    }

    #[test]
    fn a_mark_is_lowered_by_itself_only_if_no_lease_can_have_issued_it_and_the_register_forgot_none() {
        use crate::record::{Lineage, Observation};
        use crate::writes::{self, Fresh};
        let empty =
            Observation { record: None, lineage: Lineage("a".into()), floor: 7, version: String::new() };
        let fresh = Fresh::random();
        let record = writes::init(&empty, std::time::Duration::from_secs(15), 0, None, &fresh);
        let poisoned = term(Term::MAX_ABOVE + 1, 1);
        let lower = |seen, record: &Record, to| Lowering::new(seen, record, to, Grant(9), "op", "");
        assert_eq!(lower(poisoned, &record, None).unwrap().to.epoch, 7);
        assert_eq!(lower(term(100, 1), &record, None), Err(LoweringError::MayBeReal { seen: 100 }));
        assert_eq!(lower(term(100, 1), &record, Some(8)).unwrap().to, term(8, 9));
        assert_eq!(
            lower(poisoned, &record, Some(6)),
            Err(LoweringError::BelowTheRegister { to: 6, issued: 7 })
        );
        let restored = writes::restored(&record, 500, "", &fresh);
        assert_eq!(lower(poisoned, &restored, None), Err(LoweringError::Restored { known: 7 }));
        assert_eq!(lower(poisoned, &restored, Some(499)).unwrap().to.epoch, 499);
    }
}
