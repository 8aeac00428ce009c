//! A request's id: from the pod that asked, through sidecar, ledger, outbox and forwarder, to the canonical event.
//!
//! It is for people who follow one request through the logs: nothing decides by it. Every role logs it under
//! [`TARGET`], so that `LEASEHOLD_LOG=info,leasehold::requests=warn` turns those lines off.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The header that carries it, in HTTP requests and answers and in gRPC's metadata.
pub const HEADER: &str = "x-request-id";
/// The log target of the lines that follow one request.
pub const TARGET: &str = "leasehold::requests";
/// The longest one.
const LONGEST: usize = 128;

/// May this text be one? It goes into headers and log lines: nothing that could break either.
pub fn is_valid(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}

/// The id in an event's payload, if it has one: what the ledger writes beside its audit row.
pub fn of_payload(payload: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Traced {
        request_id: Option<String>,
    }
    let traced: Traced = serde_json::from_str(payload.get()).ok()?;
    traced.request_id.filter(|id| is_valid(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proper_id_of_an_object_counts() {
        let of = |json: &str| of_payload(&RawValue::from_string(json.to_owned()).expect("json"));
        assert_eq!(of(r#"{"request_id":"r-1","amount":5}"#), Some("r-1".to_owned()));
        for none in ["7", "[]", "{}", r#"{"request_id":null}"#, r#"{"request_id":7}"#, r#"{"request_id":""}"#]
        {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(of(r#"{"request_id":"a\nlevel=ERROR"}"#), None, "no forged log lines");
        assert_eq!(of(&format!("{{\"request_id\":\"{}\"}}", "x".repeat(129))), None);
    }
}
