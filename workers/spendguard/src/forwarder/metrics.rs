//! The forwarder's metrics, by the names that operators' dashboards use. Those about leadership come from the
//! elector's events, in `leading`.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// 1 while this instance leads, else 0.
pub const IS_LEADER: &str = "spendguard_outbox_forwarder_is_leader";
/// For how long the present term has lasted, observed at each acknowledged beat and at the term's end.
pub const LEADER_AGE: &str = "spendguard_outbox_forwarder_leader_age_seconds";
/// Rows marked as forwarded.
pub const ROWS_FORWARDED: &str = "spendguard_outbox_forwarder_rows_forwarded_total";
/// Rows that this instance removed, forwarded for longer than they are kept.
pub const PRUNED: &str = "spendguard_outbox_forwarder_rows_pruned_total";
/// Batches that were not finished, by reason.
pub const SKIP: &str = "spendguard_outbox_forwarder_skip_total";
/// Rounds of the leader's loop.
pub const LOOP_ITERATIONS: &str = "spendguard_outbox_forwarder_loop_iterations_total";
/// For how long the oldest pending row has waited.
pub const OLDEST_PENDING: &str = "spendguard_outbox_pending_oldest_age_seconds";

/// Why a batch was not finished: the values of `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The lease had run out by this process's own clock.
    LeaseExpired,
    /// The outbox or canonical-ingest has admitted a later term.
    FenceRefused,
    /// The outbox did not answer, or with an error.
    OutboxUnavailable,
    /// canonical-ingest did not answer, was busy, or failed.
    IngestUnavailable,
    /// canonical-ingest does not accept what it was sent.
    IngestRejected,
}

impl Skip {
    const ALL: [Self; 5] = [
        Self::LeaseExpired,
        Self::FenceRefused,
        Self::OutboxUnavailable,
        Self::IngestUnavailable,
        Self::IngestRejected,
    ];

    /// The label's value.
    pub fn reason(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease_expired",
            Self::FenceRefused => "fence_refused",
            Self::OutboxUnavailable => "outbox_unavailable",
            Self::IngestUnavailable => "ingest_unavailable",
            Self::IngestRejected => "ingest_rejected",
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
    describe_counter!(ROWS_FORWARDED, "outbox rows marked as forwarded by this instance");
    describe_counter!(PRUNED, "outbox rows past their retention that this instance removed");
    describe_counter!(SKIP, "batches that were not finished, by reason");
    describe_counter!(LOOP_ITERATIONS, "rounds of the leader's loop");
    describe_gauge!(OLDEST_PENDING, "age in seconds of the oldest outbox row that is still to be forwarded");
    gauge!(IS_LEADER).set(0);
    gauge!(OLDEST_PENDING).set(0);
    counter!(ROWS_FORWARDED).increment(0);
    counter!(PRUNED).increment(0);
    counter!(LOOP_ITERATIONS).increment(0);
    Skip::ALL.iter().for_each(|skip| counter!(SKIP, "reason" => skip.reason()).increment(0));
}
