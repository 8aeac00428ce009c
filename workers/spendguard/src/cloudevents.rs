//! The wire format: CloudEvents 1.0, batched JSON, and the headers that carry the forwarder's term (F-2).

use std::borrow::Cow;

use lease_core::{Grant, LeaseName, Term};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The media type of a batch.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// The type of every event.
pub const EVENT_TYPE: &str = "com.spendguard.audit.v1";
/// The lease whose term the request carries.
pub const LEASE_HEADER: &str = "leasehold-lease";
/// The term's epoch, decimal.
pub const EPOCH_HEADER: &str = "leasehold-epoch";
/// The term's grant, 32 hexadecimal digits.
pub const GRANT_HEADER: &str = "leasehold-grant";

/// An event's identity: unique everywhere and for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventKey {
    /// The tenant that the event belongs to.
    pub tenant_id: String,
    /// The instance that produced it; without `/`.
    pub workload_instance_id: String,
    /// Its number among that instance's events.
    pub producer_sequence: i64,
}

impl EventKey {
    /// The CloudEvents id: `tenant/instance/sequence`. Only the tenant may contain a `/`, so it is read from the right.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.tenant_id, self.workload_instance_id, self.producer_sequence)
    }

    /// Reads [`id`](Self::id) back.
    pub fn parse(id: &str) -> Option<Self> {
        let (rest, sequence) = id.rsplit_once('/')?;
        let (tenant_id, workload_instance_id) = rest.rsplit_once('/')?;
        let producer_sequence: i64 = sequence.parse().ok()?;
        let valid = !tenant_id.is_empty() && !workload_instance_id.is_empty() && producer_sequence >= 0;
        valid.then(|| Self {
            tenant_id: tenant_id.to_owned(),
            workload_instance_id: workload_instance_id.to_owned(),
            producer_sequence,
        })
    }
}

/// One event on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct CloudEvent<'a> {
    /// `1.0`.
    #[serde(borrow)]
    pub specversion: Cow<'a, str>,
    /// [`EVENT_TYPE`].
    #[serde(borrow)]
    pub r#type: Cow<'a, str>,
    /// Its source: a URI reference.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// [`EventKey::id`].
    pub id: String,
    /// When it happened, RFC 3339.
    pub time: jiff::Timestamp,
    /// The type of `data`.
    #[serde(borrow)]
    pub datacontenttype: Cow<'a, str>,
    /// The producer's epoch when it wrote the event: data of its time, never a reason to refuse it. A string, because
    /// a CloudEvents integer has 32 bits.
    pub fencingepoch: String,
    /// The request that caused it, if its producer was told: an extension attribute, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requestid: Option<String>,
    /// The payload.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

/// The headers of a request that speaks for `term` of `lease`.
pub fn term_headers(lease: &LeaseName, term: Term) -> [(&'static str, String); 3] {
    [
        (LEASE_HEADER, lease.to_string()),
        (EPOCH_HEADER, term.epoch.to_string()),
        (GRANT_HEADER, term.grant.to_string()),
    ]
}

/// Reads [`term_headers`] back; `header` looks one up by name.
///
/// # Errors
/// Which header is missing or malformed, and what it should be.
pub fn term_from<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Result<(LeaseName, Term), String> {
    let get = |name: &str| header(name).ok_or_else(|| format!("the header {name} is missing or not text"));
    let lease = get(LEASE_HEADER)?.parse().map_err(|error| format!("{LEASE_HEADER}: {error}"))?;
    let epoch = get(EPOCH_HEADER)?;
    let epoch =
        epoch.parse().ok().filter(|epoch| (1..=Term::MAX_EPOCH).contains(epoch)).ok_or_else(|| {
            let max = Term::MAX_EPOCH;
            format!("{EPOCH_HEADER} = {epoch:?} is no epoch: use a whole number from 1 to {max}")
        })?;
    let grant = get(GRANT_HEADER)?;
    let grant =
        Some(grant)
            .filter(|grant| grant.len() == 32)
            .and_then(|grant| grant.parse::<Grant>().ok())
            .ok_or_else(|| format!("{GRANT_HEADER} = {grant:?} is no grant: use 32 hexadecimal digits"))?;
    Ok((lease, Term { epoch, grant }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_exactly_one_key() {
        let key = EventKey {
            tenant_id: "acme/eu".into(),
            workload_instance_id: "pod-1".into(),
            producer_sequence: 7,
        };
        assert_eq!(key.id(), "acme/eu/pod-1/7");
        assert_eq!(EventKey::parse(&key.id()), Some(key));
        for bad in ["", "a/b", "a/b/", "a/b/x", "/b/1", "a//1", "a/b/-1"] {
            assert_eq!(EventKey::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_term_survives_its_headers_and_bad_headers_are_named() {
        let lease = LeaseName::new("outbox-forwarder").expect("valid");
        let term = Term { epoch: 7, grant: Grant::random() };
        let headers = term_headers(&lease, term);
        let read = |headers: &[(&'static str, String)]| {
            let headers = headers.to_vec();
            term_from(|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str()))
        };
        assert_eq!(read(&headers), Ok((lease, term)));
        let mut wrong = headers.clone();
        for bad in ["0", "-1", "4611686018427387905", "9223372036854775807", "18446744073709551616", "1e3"] {
            wrong[1].1 = bad.into();
            let why = read(&wrong).expect_err(bad);
            assert!(why.contains(bad) && why.contains("from 1 to 4611686018427387904"), "{why}");
        }
        assert!(read(&headers[..2]).is_err_and(|why| why.contains("leasehold-grant is missing")));
    }
}
