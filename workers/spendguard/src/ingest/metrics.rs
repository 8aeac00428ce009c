//! canonical-ingest's metrics.

use lease_worker_common::refusals::Refusals;
use metrics::{counter, describe_counter};

/// New events kept.
pub(super) const ACCEPTED: &str = "spendguard_canonical_ingest_events_accepted_total";
/// Events that were there already.
pub(super) const DUPLICATES: &str = "spendguard_canonical_ingest_events_duplicate_total";
/// Requests by status code.
pub(super) const REQUESTS: &str = "spendguard_canonical_ingest_requests_total";
/// Requests of an older term than one admitted before.
pub(super) const FENCE_REFUSED: &str = "spendguard_canonical_ingest_fence_refused_total";
/// Callers that may not send, or not what they send.
pub(super) static CALLERS_REFUSED: Refusals =
    Refusals::new("spendguard_canonical_ingest_callers_refused_total");

/// Describes the metrics and shows them from the start.
pub(super) fn start() {
    describe_counter!(ACCEPTED, "new events kept");
    describe_counter!(DUPLICATES, "events received again and not kept twice");
    describe_counter!(REQUESTS, "requests by status code");
    describe_counter!(FENCE_REFUSED, "requests refused because a later term was admitted before");
    [ACCEPTED, DUPLICATES, FENCE_REFUSED].iter().for_each(|name| counter!(*name).increment(0));
    CALLERS_REFUSED.start();
}
