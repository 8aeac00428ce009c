//! What stands in a store, and what its watch says.

use lease_core::internal::step::Event;
use lease_core::migrate::Mark;
use lease_core::{Hint, LeaseName, Lineage, Observation, Record};
use serde_json::Value;

use crate::candidate;

const HERE: &str = "here";

fn name() -> LeaseName {
    LeaseName::new("one").expect("a name")
}

fn observation(record: Record) -> Observation {
    Observation { record: Some(record), lineage: Lineage(HERE.to_owned()), floor: 7, version: String::new() }
}

/// A record as SQLite, Postgres' notifications and the ledger keep it.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let again = serde_json::to_string(&record).expect("what was read can be written");
    let read: Record = serde_json::from_str(&again).expect("what was written can be read");
    if !record.extra.values().any(has_a_float) {
        assert_eq!(read, record, "a record changes when it is written and read");
    }
    candidate::meets(&observation(record.clone()));
    candidate::hears(|_| Event::Shown(observation(record.clone())));
}

/// Floats may lose digits, which is said at [`Record::extra`].
fn has_a_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_a_float),
        Value::Object(fields) => fields.values().any(has_a_float),
        _ => false,
    }
}

/// The beat key of etcd.
pub(crate) fn etcd(bytes: &[u8]) {
    let Ok(seen) = lease_etcd::internal::register(&name(), Lineage(HERE.to_owned()), 7, bytes) else {
        return;
    };
    candidate::meets(&seen);
    candidate::hears(|_| Event::Shown(seen.clone()));
}

/// A Lease, whoever wrote it.
pub(crate) fn k8s(bytes: &[u8]) {
    let Ok(seen) = lease_k8s::internal::register(bytes) else { return };
    candidate::meets(&seen);
    candidate::hears(|_| Event::Shown(seen.clone()));
    // A write leaves what the next reader takes for the same register.
    let Some(record) = &seen.record else { return };
    let Ok(written) = lease_k8s::internal::written(&name(), &seen, record) else { return };
    let Ok(read) = lease_k8s::internal::register(&written) else { return };
    let read = read.record.expect("a Lease is a register");
    assert_eq!((read.grant, read.epoch), (record.grant, record.epoch), "a write changed the term");
}

/// Anybody who may connect to the database can send a notification, also one that repeats most of the register.
pub(crate) fn notification(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    candidate::hears(|present| match lease_postgres::internal::hint(&forged(text, present), "one") {
        Some(Hint::Shows(_, seen)) => Event::Shown(seen),
        Some(Hint::Changed) => Event::Hint,
        None => Event::Tick,
    });
}

/// The present register as a payload, with the fields that `text`, a JSON object, has in their places.
fn forged(text: &str, present: &Observation) -> String {
    let Ok(Value::Object(changes)) = serde_json::from_str(text) else { return text.to_owned() };
    let mut record = serde_json::to_value(&present.record).expect("a record is JSON");
    let object = record.as_object_mut().expect("a record is an object");
    object.extend(changes);
    serde_json::json!({ "lease": "one", "lineage": HERE, "floor": present.floor, "record": record })
        .to_string()
}

/// A final register's account of its move.
pub(crate) fn mark(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(mark) = text.parse::<Mark>() {
        assert_eq!(mark.to_string().parse(), Ok(mark), "a mark changes when it is written and read");
    }
}
