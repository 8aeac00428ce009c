//! The sweeper's metrics, by the names that operators' dashboards use.

use lease_worker_common::leader_metrics::LeaderMetrics;
use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Leadership, and the leader's loop.
pub static LEADER: LeaderMetrics = LeaderMetrics {
    is_leader: "spendguard_ttl_sweeper_is_leader",
    leader_age: "spendguard_ttl_sweeper_leader_age_seconds",
    loop_iterations: "spendguard_ttl_sweeper_loop_iterations_total",
    pruned: "spendguard_ttl_sweeper_rows_pruned_total",
    left_out: "spendguard_ttl_sweeper_rows_left_out_total",
    skip: "spendguard_ttl_sweeper_skip_total",
    skip_reasons: &[LEDGER_UNAVAILABLE, RESERVATION_REFUSED],
};
/// Reservations that this instance released because their time was over.
pub const SWEPT: &str = "spendguard_ttl_sweeper_reservations_swept_total";
/// For how long the oldest expired reservation has waited to be released.
pub const OLDEST_EXPIRED: &str = "spendguard_reservations_expired_oldest_age_seconds";

/// The reason when the ledger's database did not answer, or with an error.
pub(super) const LEDGER_UNAVAILABLE: &str = "ledger_unavailable";
/// The reason when the ledger's database refuses to release a reservation.
pub(super) const RESERVATION_REFUSED: &str = "reservation_refused";

/// Describes the metrics and shows them from the start, at zero.
pub(super) fn start() {
    LEADER.start();
    describe_counter!(SWEPT, "expired reservations released by this instance");
    describe_gauge!(
        OLDEST_EXPIRED,
        "age in seconds of the oldest reservation that is still to be released; NaN while it is not known"
    );
    gauge!(OLDEST_EXPIRED).set(f64::NAN);
    counter!(SWEPT).increment(0);
}
