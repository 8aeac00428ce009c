//! The forwarder's metrics, by the names that operators' dashboards use.

use lease_worker_common::leader_metrics::LeaderMetrics;
use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Leadership, and the leader's loop.
pub static LEADER: LeaderMetrics = LeaderMetrics {
    is_leader: "spendguard_outbox_forwarder_is_leader",
    leader_age: "spendguard_outbox_forwarder_leader_age_seconds",
    loop_iterations: "spendguard_outbox_forwarder_loop_iterations_total",
    pruned: "spendguard_outbox_forwarder_rows_pruned_total",
    left_out: "spendguard_outbox_forwarder_rows_left_out_total",
    skip: "spendguard_outbox_forwarder_skip_total",
    skip_reasons: &[OUTBOX_UNAVAILABLE, INGEST_UNAVAILABLE, INGEST_REJECTED],
};
/// Rows marked as forwarded.
pub const ROWS_FORWARDED: &str = "spendguard_outbox_forwarder_rows_forwarded_total";
/// For how long the oldest pending row has waited.
pub const OLDEST_PENDING: &str = "spendguard_outbox_pending_oldest_age_seconds";

/// The reason when the outbox did not answer, or with an error.
pub(super) const OUTBOX_UNAVAILABLE: &str = "outbox_unavailable";
/// The reason when canonical-ingest did not answer, was busy, or failed.
pub(super) const INGEST_UNAVAILABLE: &str = "ingest_unavailable";
/// The reason when canonical-ingest does not accept what it was sent.
pub(super) const INGEST_REJECTED: &str = "ingest_rejected";

/// Describes the metrics and shows them from the start, at zero.
pub(super) fn start() {
    LEADER.start();
    describe_counter!(ROWS_FORWARDED, "outbox rows marked as forwarded by this instance");
    describe_gauge!(
        OLDEST_PENDING,
        "age in seconds of the oldest outbox row that is still to be forwarded; NaN while it is not known"
    );
    gauge!(OLDEST_PENDING).set(f64::NAN);
    counter!(ROWS_FORWARDED).increment(0);
}
