//! Every form that a record has had since the first version: each version reads and keeps those of all others.

use std::collections::BTreeMap;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Grant, Lineage, Observation, Record, Tag, WallTime};
use serde::Deserialize;
use serde_json::Value;

/// Records as they stood in stores. `first` is the form of 049f8ed, `restored` that of e09c006.
const FORMS: [(&str, &str); 3] = [
    ("first", include_str!("forms/first.json")),
    ("first-sealed", include_str!("forms/first-sealed.json")),
    ("restored", include_str!("forms/restored.json")),
];

/// The first version's reader: what it needs in a record, and the types that it takes.
#[derive(Deserialize)]
#[expect(dead_code, reason = "that they can be read is what matters")]
struct FirstReader {
    tag: String,
    #[serde(default)]
    grant: Option<String>,
    epoch: u64,
    beat: u64,
    holder: String,
    ttl_ms: u64,
    max_ttl_ms: u64,
    lineage: String,
    transitions: u64,
    #[serde(default)]
    preemptible: bool,
    #[serde(default)]
    sealed: Option<String>,
    #[serde(default)]
    request: Option<FirstRequest>,
    #[serde(default)]
    answered: Option<String>,
    acquired_at: i64,
    renewed_at: i64,
    expires_at: i64,
    #[serde(default)]
    region: String,
    #[serde(default)]
    note: String,
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "as above")]
struct FirstRequest {
    id: String,
    grant: String,
    by: String,
}

fn read(form: &str) -> Record {
    serde_json::from_str(form).unwrap_or_else(|error| panic!("{error} in {form}"))
}

#[test]
fn every_form_is_read_and_written_back_with_all_that_is_in_it() {
    for (name, form) in FORMS {
        let (record, stored): (Record, Value) = (read(form), serde_json::from_str(form).unwrap());
        assert_eq!(serde_json::to_value(&record).unwrap(), stored, "{name}");
    }
}

#[test]
fn an_acquisition_on_every_open_form_keeps_what_it_does_not_know_and_is_read_by_the_first_version() {
    for (name, form) in FORMS.into_iter().filter(|(_, form)| !form.contains("sealed")) {
        let mut record = read(form);
        record.extra.insert("of_a_later_version".into(), "kept".into());
        let lineage = Lineage("another".into());
        let seen = Observation { record: Some(record), lineage, floor: 0, version: String::new() };
        let who = Candidate {
            holder: "new".into(),
            region: String::new(),
            ttl: std::time::Duration::from_secs(15),
            max_ttl: std::time::Duration::from_secs(30),
            preemptible: false,
            work: Some("outbox-forwarder/1".into()),
        };
        let fresh = Fresh { tag: Tag(1), grant: Grant(2), wall: WallTime(3) };
        let written = writes::acquire(&seen, seen.record.as_ref().unwrap(), &who, Grant(2), &fresh);
        let written = serde_json::to_string(&written).unwrap();
        let first: FirstReader = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(first.extra.get("of_a_later_version"), Some(&"kept".into()), "{name}");
        assert!(first.epoch > read(form).issued(), "{name}: {written}");
    }
}

#[test]
fn a_record_without_a_field_of_the_first_form_is_refused_by_its_name() {
    for field in ["tag", "epoch", "beat", "ttl_ms", "max_ttl_ms", "lineage", "transitions"] {
        let mut form: Value = serde_json::from_str(FORMS[0].1).unwrap();
        form.as_object_mut().unwrap().remove(field);
        let refusal = serde_json::from_value::<Record>(form).unwrap_err().to_string();
        assert!(refusal.contains(field), "without {field}: {refusal}");
    }
}
