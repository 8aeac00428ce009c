//! Every edit of one event of a trace that leaves a trace.

use lease_judge::history::{History, HistoryEntry};
use serde_json::{Map, Value, json};

/// One edit.
pub(crate) struct Edit {
    /// The place of the edited event.
    pub(crate) place: usize,
    /// What was done to it.
    pub(crate) how: String,
    /// The trace with it.
    pub(crate) history: History,
}

/// All edits of all events.
pub(crate) fn all(history: &History) -> impl Iterator<Item = Edit> {
    (0..history.events.len()).flat_map(move |place| of(history, place))
}

fn of(history: &History, place: usize) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut edit = |how: String, change: &dyn Fn(&mut Vec<HistoryEntry>)| {
        let mut edited = history.clone();
        change(&mut edited.events);
        edited.sort();
        if edited.events != history.events {
            edits.push(Edit { place, how, history: edited });
        }
    };
    edit("dropped".into(), &|events| drop(events.remove(place)));
    edit("doubled".into(), &|events| events.insert(place, events[place].clone()));
    let own = |other: &usize| history.events[*other].actor == history.events[place].actor;
    if let Some(next) = (place + 1..history.events.len()).find(own) {
        edit("swapped with the actor's next".into(), &|events| {
            let (one, other) = (events[place].what.clone(), events[next].what.clone());
            (events[place].what, events[next].what) = (other, one);
        });
    }
    let event = serde_json::to_value(&history.events[place]).expect("plain data");
    for (how, edited) in variations("", &event) {
        // Only what is an event again.
        if let Ok(event) = serde_json::from_value::<HistoryEntry>(edited) {
            edit(how, &|events| events[place] = event.clone());
        }
    }
    edits
}

/// Every value with one difference, and where it differs.
fn variations(path: &str, value: &Value) -> Vec<(String, Value)> {
    let here =
        |values: Vec<Value>| values.into_iter().map(|other| (format!("{path} {value} -> {other}"), other));
    match value {
        Value::Object(fields) => {
            let mut all = Vec::new();
            for (name, field) in fields {
                for (how, other) in variations(&format!("{path}/{name}"), field) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), other);
                    all.push((how, Value::Object(fields)));
                }
                // An answer of another kind, with the same register.
                for kind in KINDS.iter().filter(|kind| KINDS.contains(&&**name) && *kind != name) {
                    let renamed = Map::from_iter([((*kind).to_owned(), field.clone())]);
                    all.push((format!("{path}/{name} -> {kind}"), Value::Object(renamed)));
                }
            }
            all
        }
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or_default();
            let times = path == "/at" || path.contains("deadline") || path.contains("until");
            let steps: &[u64] = if times { &[1, 1_000_000] } else { &[1] };
            let later = steps.iter().map(|step| json!(number + step));
            here(later.chain(steps.iter().map(|step| json!(number.saturating_sub(*step)))).collect())
                .collect()
        }
        Value::Bool(is) => here(vec![json!(!is)]).collect(),
        Value::String(text) => {
            let words =
                WORDS.iter().filter(|word| WORDS.contains(&&**text) && *word != text).map(|word| json!(word));
            let hex = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
            let last = if text.ends_with('0') { '1' } else { '0' };
            let other = if hex { format!("{}{last}", &text[..31]) } else { format!("{text}x") };
            here(words.chain([json!(other)]).chain(hex.then_some(Value::Null)).collect()).collect()
        }
        Value::Null => here(vec![json!("00000000000000000000000000000001")]).collect(),
        Value::Array(_) => Vec::new(),
    }
}

/// The answers that show a register.
const KINDS: &[&str] = &["seen", "written", "conflict"];

/// Values of which one may stand for another: of inputs, changes, losses, failures and events.
const WORDS: &[&str] = &[
    "next",
    "tick",
    "hint",
    "holder_is_dead",
    "shutdown",
    "abandon",
    "store_gone",
    "init",
    "acquire",
    "renew",
    "release",
    "revoke",
    "request",
    "seal",
    "restore",
    "returned",
    "expired",
    "superseded",
    "revoked",
    "register_gone",
    "not_applied",
    "unknown",
    "work_returned",
    "left",
    "died",
    "paused",
];
