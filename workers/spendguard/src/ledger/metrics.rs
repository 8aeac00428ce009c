//! The ledger's metrics.

use lease_worker_common::refusals::Refusals;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

/// Calls by method and by what became of them: `ok`, the ledger's own code, or gRPC's.
pub(super) const REQUESTS: &str = "spendguard_ledger_requests_total";
/// The duration of calls, except those that wait for a scope.
pub(super) const SECONDS: &str = "spendguard_ledger_request_seconds";
/// Acquisitions by outcome: the action, or `denied`.
pub(super) const ACTIONS: &str = "spendguard_ledger_fencing_action_total";
/// Writes of a term that was over.
pub(super) const REFUSED: &str = "spendguard_ledger_fence_refused_total";
/// Callers that may not call, or not do what they ask for.
pub(super) static CALLERS_REFUSED: Refusals = Refusals::new("spendguard_ledger_callers_refused_total");
/// Calls that wait for a scope.
pub(super) const WAITERS: &str = "spendguard_ledger_scope_waiters";

/// Describes the metrics and shows them from the start.
pub(super) fn start() {
    describe_counter!(REQUESTS, "calls by method and outcome");
    describe_histogram!(SECONDS, "duration of calls in seconds, by method");
    describe_counter!(ACTIONS, "acquisitions by action, and those denied");
    describe_counter!(REFUSED, "calls refused because their term was over");
    describe_gauge!(WAITERS, "calls that wait for a fencing scope");
    for action in ["acquire", "renew", "recover", "takeover", "revoke", "denied"] {
        counter!(ACTIONS, "action" => action).increment(0);
    }
    counter!(REFUSED).increment(0);
    CALLERS_REFUSED.start();
    gauge!(WAITERS).set(0);
}
