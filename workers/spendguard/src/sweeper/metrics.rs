//! The sweeper's metrics, by the names that operators' dashboards use.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// 1 while this instance leads, else 0.
pub const IS_LEADER: &str = "spendguard_ttl_sweeper_is_leader";
/// For how long the present term has lasted, observed at each acknowledged beat and at the term's end.
pub const LEADER_AGE: &str = "spendguard_ttl_sweeper_leader_age_seconds";
/// Reservations that this instance released because their time was over.
pub const SWEPT: &str = "spendguard_ttl_sweeper_reservations_swept_total";
/// Rows older than they are kept that this instance removed.
pub const PRUNED: &str = "spendguard_ttl_sweeper_rows_pruned_total";
/// Batches that were not finished, by reason.
pub const SKIP: &str = "spendguard_ttl_sweeper_skip_total";
/// Rounds of the leader's loop.
pub const LOOP_ITERATIONS: &str = "spendguard_ttl_sweeper_loop_iterations_total";
/// For how long the oldest reservation that is over has waited to be released.
pub const OLDEST_EXPIRED: &str = "spendguard_reservations_expired_oldest_age_seconds";

/// Why a batch was not finished: the values of `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The lease had run out by this process's own clock.
    LeaseExpired,
    /// The ledger has admitted a later term.
    FenceRefused,
    /// The ledger's database did not answer, or with an error.
    LedgerUnavailable,
}

impl Skip {
    const ALL: [Self; 3] = [Self::LeaseExpired, Self::FenceRefused, Self::LedgerUnavailable];

    /// The label's value.
    pub fn reason(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease_expired",
            Self::FenceRefused => "fence_refused",
            Self::LedgerUnavailable => "ledger_unavailable",
        }
    }

    pub(super) fn count(self) {
        counter!(SKIP, "reason" => self.reason()).increment(1);
    }
}

/// Describes the metrics and shows them from the start, at zero: an alert on a missing series says nothing.
pub fn start() {
    describe_gauge!(IS_LEADER, "1 while this instance leads, else 0");
    describe_histogram!(LEADER_AGE, "age of the term in seconds, at each acknowledged beat and at its end");
    describe_counter!(SWEPT, "expired reservations released by this instance");
    describe_counter!(PRUNED, "rows past their retention that this instance removed");
    describe_counter!(SKIP, "batches that were not finished, by reason");
    describe_counter!(LOOP_ITERATIONS, "rounds of the leader's loop");
    describe_gauge!(OLDEST_EXPIRED, "age in seconds of the oldest reservation that is still to be released");
    gauge!(IS_LEADER).set(0);
    gauge!(OLDEST_EXPIRED).set(0);
    counter!(SWEPT).increment(0);
    counter!(PRUNED).increment(0);
    counter!(LOOP_ITERATIONS).increment(0);
    Skip::ALL.iter().for_each(|skip| counter!(SKIP, "reason" => skip.reason()).increment(0));
}
