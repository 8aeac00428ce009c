//! The payload of a notification: the register as the notifying statement wrote it.

use lease_core::{Hint, LeaseName, Lineage, Observation, Record};
use serde::{Deserialize, Serialize};

/// NOTIFY takes payloads of less than 8,000 bytes.
const LONGEST: usize = 7_900;

/// A payload that would be too long, or was written by an older version, is the lease's name alone.
#[derive(Serialize, Deserialize)]
struct Payload {
    lease: LeaseName,
    lineage: Lineage,
    floor: u64,
    record: Record,
}

/// The payload for a write of `record` on `expected`. Its floor is the one that was seen: while the record's tag
/// lasts, no later epoch of this lease was made.
pub(crate) fn payload(lease: &LeaseName, expected: &Observation, record: &Record) -> String {
    let shown = Payload {
        lease: lease.clone(),
        lineage: expected.lineage.clone(),
        floor: expected.floor,
        record: record.clone(),
    };
    match serde_json::to_string(&shown) {
        Ok(text) if text.len() <= LONGEST => text,
        _ => lease.as_str().to_owned(),
    }
}

/// The hint for somebody who watches `prefix`. Anybody who may connect can send a payload, so nothing of it is
/// believed that the acquiring statement doesn't compare (grant, epoch, tag, lineage).
pub(crate) fn hint(payload: &str, prefix: &str) -> Option<Hint> {
    match serde_json::from_str::<Payload>(payload) {
        Ok(shown) if shown.lease.as_str().starts_with(prefix) => {
            let Payload { lease, lineage, floor, record } = shown;
            let observation = Observation { record: Some(record), lineage, floor, version: String::new() };
            Some(Hint::Shows(lease, observation))
        }
        Ok(_) => None,
        Err(_) => payload.starts_with(prefix).then_some(Hint::Changed),
    }
}
