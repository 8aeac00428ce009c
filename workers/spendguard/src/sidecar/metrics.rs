//! The sidecar's metrics, by the names that operators' dashboards use.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// The epoch of the term that may be acted on; 0 while there is none.
pub const EPOCH: &str = "spendguard_sidecar_fencing_epoch";
/// Granted acquisitions and renewals, by the ledger's own word for each.
pub const ACQUIRE_ACTION: &str = "spendguard_sidecar_fencing_acquire_action_total";
/// Acquisitions that were denied because another sidecar holds the scope.
pub const DENIED: &str = "spendguard_sidecar_fencing_acquire_denied_total";
/// Requests on the socket, by status code.
pub const REQUESTS: &str = "spendguard_sidecar_requests_total";

/// The ledger's words.
const ACTIONS: [&str; 5] = ["acquire", "renew", "recover", "takeover", "revoke"];

/// Describes the metrics and shows them from the start, at zero.
pub(super) fn start() {
    describe_gauge!(EPOCH, "epoch of the fencing lease that is held, 0 while none is");
    describe_counter!(ACQUIRE_ACTION, "granted acquisitions and renewals of the fencing lease, by action");
    describe_counter!(DENIED, "reads of the scope that found another live holder");
    describe_counter!(REQUESTS, "requests on the socket, by status code");
    gauge!(EPOCH).set(0);
    counter!(DENIED).increment(0);
    ACTIONS.iter().for_each(|action| counter!(ACQUIRE_ACTION, "action" => *action).increment(0));
}

/// Computed when it is asked for, so that it is 0 past the deadline whatever the process does.
pub(super) fn epoch(epoch: u64) {
    gauge!(EPOCH).set(epoch as f64);
}

pub(super) fn acquired(action: &str) {
    let action = ACTIONS.into_iter().find(|known| *known == action).unwrap_or("other");
    counter!(ACQUIRE_ACTION, "action" => action).increment(1);
}

pub(super) fn denied() {
    counter!(DENIED).increment(1);
}

pub(super) fn request(status: u16) {
    counter!(REQUESTS, "code" => status.to_string()).increment(1);
}
