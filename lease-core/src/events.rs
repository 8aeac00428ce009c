//! An elector's events; logs and metrics are derived from them, here and nowhere else.

use std::time::Duration;

use crate::reasons::{Loss, StopReason};
use crate::record::{LeaseName, RequestId, Term};

/// One event of one elector.
#[derive(Clone, Debug)]
pub struct LeaseEvent {
    /// The lease.
    pub lease: LeaseName,
    /// This workload.
    pub holder: String,
    /// The event.
    pub kind: EventKind,
}

/// The kind of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The store answers.
    Connected {
        /// The backend's name.
        backend: &'static str,
    },
    /// A call to the store, or connecting to it, failed. The core tries again.
    StoreFailed {
        /// The failed operation.
        operation: &'static str,
        /// The store's answer.
        error: String,
    },
    /// The watch came up or went down; when it is down, candidates poll.
    Watching(bool),
    /// The store, or what stands in between, offers no watch until somebody changes a setting: candidates poll. Reported
    /// once.
    WatchRefused(String),
    /// Another grant was seen for the first time.
    Following(Term),
    /// An operator ended the last term (H-3), or keeps this candidate off for a time.
    Revoked {
        /// The name of whoever did, for people; empty if that is not known.
        by: String,
        /// Why, for people.
        note: String,
        /// This candidate holds off, and for this long at least.
        hold_off: Option<Duration>,
    },
    /// No epoch is left for another term (E-1); the register's last one. An operator must repair the register.
    EpochsExhausted(u64),
    /// There is no register: an operator must run `init` (T-5).
    RegisterAbsent,
    /// This register is final (M-1): the lease was moved, or is being moved; in the register's own words.
    Sealed(String),
    /// The store was restored behind what was seen: the register counts as held for the lease's maximum ttl (T-6).
    Rewound {
        /// What was seen before, for people.
        lost: String,
        /// What the store shows now, for people.
        shows: String,
    },
    /// A step of the lease's move into this store, for people (M-1).
    Moving(String),
    /// The lease lives in this store: it was moved, now or before (M-1).
    Moved,
    /// A term began.
    Acquired {
        /// The new term.
        term: Term,
        /// The time that it lasts without a renewal.
        remaining: Duration,
    },
    /// A beat was acknowledged.
    Renewed(Term),
    /// The work was told to stop; the lease is kept while it drains.
    StopTold {
        /// The term.
        term: Term,
        /// The reason.
        reason: StopReason,
    },
    /// A term is over.
    Ended {
        /// The term.
        term: Term,
        /// The reason.
        loss: Loss,
    },
    /// The register was given up.
    Released {
        /// The term that held it.
        term: Term,
        /// The request that this answers (H-2).
        answered: Option<RequestId>,
    },
    /// The release was not acknowledged; the lease expires by itself (U-3).
    ReleaseAbandoned(Term),
    /// The elector has ended.
    Stopped,
}

impl LeaseEvent {
    /// Writes the event to the log, with `lease`, `holder` and `epoch` fields; of a store's failure, how many there were.
    pub(crate) fn log(&self, failures: u64) {
        use tracing::{debug, error, info, warn};
        let (lease, holder) = (self.lease.as_str(), self.holder.as_str());
        match &self.kind {
            EventKind::Connected { backend } => info!(lease, holder, backend, "lease store connected"),
            EventKind::StoreFailed { operation, error } => {
                let failures = (failures > 1).then_some(failures);
                warn!(lease, holder, operation, error, failures, "lease store failed; trying again");
            }
            EventKind::Watching(true) => debug!(lease, holder, "watching for changes"),
            EventKind::Watching(false) => debug!(lease, holder, "watch is down; polling"),
            EventKind::WatchRefused(error) => {
                warn!(
                    lease,
                    holder, error, "no watch: a released lease is found by polling, one retry interval late"
                );
            }
            EventKind::Following(term) => {
                info!(lease, holder, epoch = term.epoch, "standing by: somebody else holds the lease");
            }
            EventKind::Revoked { by, note, hold_off: None } => {
                info!(lease, holder, by, note, "standing by: an operator revoked the lease");
            }
            EventKind::Revoked { by, note, hold_off: Some(hold_off) } => {
                warn!(
                    lease,
                    holder,
                    by,
                    note,
                    ?hold_off,
                    "an operator revoked the lease, and has others come before this workload"
                );
            }
            EventKind::EpochsExhausted(epoch) => error!(
                lease,
                holder,
                epoch,
                greatest = Term::MAX_EPOCH,
                "no epoch is left for another term: nobody can lead until an operator repairs the register; polling"
            ),
            EventKind::RegisterAbsent => warn!(
                lease,
                holder,
                "no such lease in this store; waiting until it is created with init (above the greatest epoch that \
                 anybody knows, after a loss), unless this workload should be pointed at another store"
            ),
            EventKind::Sealed(why) => {
                warn!(
                    lease,
                    holder, why, "the lease does not live in this register any more, or not yet; waiting"
                );
            }
            EventKind::Rewound { lost, shows } => warn!(
                lease,
                holder,
                lost,
                shows,
                "the store was restored from a backup: it has forgotten what was seen of this lease; somebody may act on \
                 what is lost, so the lease is waited out"
            ),
            EventKind::Moving(step) => info!(lease, holder, step, "moving the lease into this store"),
            EventKind::Moved => info!(lease, holder, "the lease lives in this store"),
            EventKind::Acquired { term, remaining } => {
                info!(lease, holder, epoch = term.epoch, grant = %term.grant, ?remaining, "leading");
            }
            EventKind::Renewed(term) => debug!(lease, holder, epoch = term.epoch, "renewed"),
            EventKind::StopTold { term, reason: reason @ StopReason::Silent(_) } => {
                warn!(lease, holder, epoch = term.epoch, %reason, "stopping work; lease not renewed any more");
            }
            // The work may stop so soon that nothing else would tell of the outage that has ended the term.
            EventKind::StopTold { term, reason: reason @ StopReason::Expiring } => {
                warn!(lease, holder, epoch = term.epoch, %reason, "stopping work; the term runs out");
            }
            EventKind::StopTold { term, reason } => {
                info!(lease, holder, epoch = term.epoch, %reason, "stopping work; lease kept while it drains");
            }
            EventKind::Ended { term, loss: loss @ Loss::Returned } => {
                info!(lease, holder, epoch = term.epoch, reason = %loss, "term over");
            }
            EventKind::Ended { term, loss: loss @ Loss::FenceRefused } => {
                error!(lease, holder, epoch = term.epoch, reason = %loss, "FENCING_EPOCH_STALE: term over");
            }
            EventKind::Ended { term, loss } => {
                warn!(lease, holder, epoch = term.epoch, reason = %loss, "term over");
            }
            EventKind::Released { term, answered } => {
                let answered = answered.map(|id| id.to_string());
                info!(lease, holder, epoch = term.epoch, answered, "released");
            }
            EventKind::ReleaseAbandoned(term) => {
                warn!(
                    lease,
                    holder,
                    epoch = term.epoch,
                    "release not acknowledged; the lease expires by itself"
                );
            }
            EventKind::Stopped => debug!(lease, holder, "elector stopped"),
        }
    }
}
