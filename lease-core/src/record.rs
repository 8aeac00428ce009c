//! A register's content: the record, and the small values it is made of (R-1, R-2, E-1).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::InvalidName;

/// The name of a lease, valid in every store: what a Kubernetes object name allows (RFC 1123 subdomain).
///
/// 1 to 253 characters of `a-z`, `0-9`, `-` and `.`; each dot-separated part begins and ends with a letter or
/// a digit. This is the one place where the rule is checked; backends need not check it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseName(String);

impl LeaseName {
    /// The longest allowed name, in characters.
    pub const MAX_LEN: usize = 253;

    /// Checks `name`.
    ///
    /// # Errors
    /// [`InvalidName`], whose message says what is allowed.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let part_is_valid = |part: &str| {
            let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            ends_well(part.chars().next())
                && ends_well(part.chars().last())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        if name.len() <= Self::MAX_LEN && name.split('.').all(part_is_valid) {
            Ok(Self(name))
        } else {
            Err(InvalidName { name })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LeaseName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl TryFrom<String> for LeaseName {
    type Error = InvalidName;
    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<LeaseName> for String {
    fn from(name: LeaseName) -> String {
        name.0
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 random bits, written as 32 hexadecimal digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// Fresh random bits from the operating system.
            ///
            /// # Panics
            /// If the operating system has no randomness to give; no lease is safe then.
            pub fn random() -> Self {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).expect("the operating system's random source must work");
                Self(u128::from_be_bytes(bytes))
            }

            /// The 16 bytes, most significant first.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From 16 bytes, most significant first.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

random_id! {
    /// Names one write attempt; what `put_if` compares. Never reused, so it can't be rewound by a restore.
    Tag
}
random_id! {
    /// Names one acquisition (E-1). Two processes with one workload name are still two grants.
    Grant
}
random_id! {
    /// Names one step-down request, and is copied by the release that answers it (H-2).
    RequestId
}

/// Names the store's history as far as the store can tell: opaque, compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(pub String);

const RESTORED: &str = "restored-";

impl Lineage {
    /// A stamp that is no store's, so that whoever finds it on a register waits (T-6).
    pub(crate) fn restored(tag: Tag) -> Self {
        Self(format!("{RESTORED}{tag}"))
    }

    /// Is it the stamp that tells of a restore? For people: whoever decides finds it foreign.
    pub fn is_restored(&self) -> bool {
        self.0.starts_with(RESTORED)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A term of leadership: the fencing token (F-2). Order of epochs is the contract, gaps are normal (E-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Term {
    /// Greater than every earlier term's. At most [`MAX_EPOCH`](Self::MAX_EPOCH).
    pub epoch: u64,
    /// Tells this acquisition from any other, also one with the same epoch.
    pub grant: Grant,
}

impl Term {
    /// The ceiling of epochs, 2^62 (E-1): no candidate acquires above it, and no fence admits more. The room above it,
    /// to 2^63, is for the epochs of revocations and closed registers, so that no step from below ever overflows.
    pub const MAX_EPOCH: u64 = 1 << 62;

    /// The greatest epoch above which an operator may lift a lease: half the ceiling, so that as many terms can follow.
    pub const MAX_ABOVE: u64 = Self::MAX_EPOCH / 2;
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.grant)
    }
}

/// A wall-clock time in milliseconds since 1970, **for people only**: nothing in the protocol compares it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

/// Whatever somebody put there by hand: no value that is for people keeps a record from being read.
impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        // A float is cut to the nearest number that there is.
        Ok(Self(value.as_i64().or_else(|| value.as_f64().map(|millis| millis as i64)).unwrap_or(0)))
    }
}

/// A text for people, or the JSON of what somebody put in its place.
fn text_for_people<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    })
}

impl WallTime {
    /// This machine's idea of the time of day.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(since.as_millis().try_into().unwrap_or(i64::MAX))
    }

    /// `span` later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_millis().try_into().unwrap_or(i64::MAX)))
    }
}

/// An operator's or a successor's wish that the holder of `grant` steps down (H-2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Names the request; the release that answers it carries the same id in [`Record::answered`].
    pub id: RequestId,
    /// The request is void for any other grant.
    pub grant: Grant,
    /// The name of whoever asks, for people.
    #[serde(default, deserialize_with = "text_for_people")]
    pub by: String,
}

/// The content of a register.
///
/// Serialises as one flat JSON object. Fields that this version doesn't know are kept in [`Record::extra`] and
/// survive a read-modify-write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Fresh in every write attempt.
    pub tag: Tag,
    /// The present grant; `None` means free.
    #[serde(default)]
    pub grant: Option<Grant>,
    /// The epoch of the present grant, or of the last one if free (E-1).
    pub epoch: u64,
    /// Counts the holder's own writes in this term; requests and notes leave it alone (T-2).
    pub beat: u64,
    /// The workload instance that holds the lease, or held it last. For people, and for history rows.
    #[serde(default, deserialize_with = "text_for_people")]
    pub holder: String,
    /// The time for which the holder may act after a beat was sent, in milliseconds; fixed for a term.
    pub ttl_ms: u64,
    /// The greatest ttl that any term of this lease may have (T-3, T-5), in milliseconds.
    pub max_ttl_ms: u64,
    /// The lineage that the last init, acquire, renew or release saw (R-2, T-3).
    pub lineage: Lineage,
    /// Dense: one more with each new grant.
    pub transitions: u64,
    /// Every effect of the holder is fenced, so the lease may be taken at any moment (F-3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preemptible: bool,
    /// Final: never taken again, by nobody; names where the lease lives now (M-1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// A pending wish that the holder steps down (H-2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// The request that the last release answered (H-2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<RequestId>,
    /// When the present grant was made. For people.
    #[serde(default)]
    pub acquired_at: WallTime,
    /// When the last beat was written. For people.
    #[serde(default)]
    pub renewed_at: WallTime,
    /// When the lease runs out if no beat follows. For people.
    #[serde(default)]
    pub expires_at: WallTime,
    /// The holder's region. For people.
    #[serde(default, deserialize_with = "text_for_people", skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Why the last change was made. For people, and for history rows.
    #[serde(default, deserialize_with = "text_for_people", skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Fields written by other versions of this software. Whole numbers of 64 bits survive; others may lose digits.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// In [`Record::extra`]: after a restore, the epoch that the next grant must exceed (T-6). The present term goes on in
/// its own epoch.
pub(crate) const EPOCHS_ABOVE: &str = "epochs_above";

impl Record {
    /// The present term; `None` if free.
    pub fn term(&self) -> Option<Term> {
        self.grant.map(|grant| Term { epoch: self.epoch, grant })
    }

    /// Is this what `term` left behind when it gave the register up?
    pub fn released(&self, term: Term) -> bool {
        self.grant.is_none() && self.epoch == term.epoch
    }

    /// The greatest epoch that this lease may have issued, as far as the record tells (E-1, T-6).
    pub fn issued(&self) -> u64 {
        let forgotten = self.extra.get(EPOCHS_ABOVE).and_then(serde_json::Value::as_u64);
        self.epoch.max(forgotten.unwrap_or_default())
    }

    /// The holder's ttl.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// The lease's maximum ttl.
    pub fn max_ttl(&self) -> Duration {
        Duration::from_millis(self.max_ttl_ms)
    }
}

/// One register, as a linearizable read or a write's answer showed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// The record, or its absence.
    pub record: Option<Record>,
    /// The store's lineage at the moment of the read.
    pub lineage: Lineage,
    /// At least every epoch of this lease that the store has issued from its floor (E-1). After a write, and in a
    /// hint, it may be the one that was seen before it: below an unchanged tag no later epoch was issued.
    pub floor: u64,
    /// The backend's own means for a later compare beside the tag (uid and resourceVersion, …); opaque to the core.
    pub version: String,
}

impl Observation {
    /// The tag that a later `put_if` compares; `None` means absent.
    pub fn tag(&self) -> Option<Tag> {
        self.record.as_ref().map(|record| record.tag)
    }

    /// The present grant, if there is a register and it isn't free.
    pub fn grant(&self) -> Option<Grant> {
        self.record.as_ref().and_then(|record| record.grant)
    }

    /// The epoch for the next grant written on this observation (E-1): above the record's and above the floor.
    pub fn next_epoch(&self) -> u64 {
        self.record.as_ref().map_or(0, Record::issued).max(self.floor).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_for_people_keeps_a_record_from_being_read() {
        let good = serde_json::json!({
            "tag": "1", "grant": "2", "epoch": 3, "beat": 4, "holder": "a", "ttl_ms": 5, "max_ttl_ms": 6,
            "lineage": "l", "transitions": 7, "acquired_at": 8, "renewed_at": 9, "expires_at": 10,
        });
        let by_hand = [
            serde_json::json!(u64::MAX),
            serde_json::json!(1e300),
            serde_json::json!("infinity"),
            serde_json::json!(null),
            serde_json::json!({"at": []}),
        ];
        for field in ["holder", "region", "note", "acquired_at", "renewed_at", "expires_at"] {
            for value in &by_hand {
                let mut json = good.clone();
                json[field] = value.clone();
                let read: Record =
                    serde_json::from_value(json).unwrap_or_else(|e| panic!("{field} = {value}: {e}"));
                assert_eq!((read.grant, read.epoch, read.beat), (Some(Grant(2)), 3, 4));
            }
            let mut json = good.clone();
            json.as_object_mut().expect("an object").remove(field);
            assert!(serde_json::from_value::<Record>(json).is_ok(), "without {field}");
        }
        assert_eq!(serde_json::from_str::<WallTime>("1e300").unwrap().0, i64::MAX);
    }
}
