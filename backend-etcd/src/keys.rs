//! The keys of a register, and their values.

use lease_core::{BackendError, LeaseName, Lineage, Observation, Record, Term};

/// The keys below one prefix, which ends in `/`.
#[derive(Clone, Debug)]
pub(crate) struct Keys(String);

/// The two keys of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Which term it is: `EPOCH/GRANT`, or `EPOCH/free`. Whoever knows a term knows this value.
    Term,
    /// The whole record, as JSON; its tag differs in every write.
    Beat,
}

/// The two keys' values; `None` where there is no such key.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Values {
    pub(crate) term: Option<String>,
    pub(crate) beat: Option<String>,
}

// === impl Keys ===

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(format!("{}/", prefix.trim_end_matches('/')))
    }

    /// The beginning of all leases' keys.
    pub(crate) fn leases(&self) -> String {
        format!("{}leases/", self.0)
    }

    /// The beginning of a lease's two keys, and of no other lease's: a name has no `/`.
    pub(crate) fn lease(&self, name: &LeaseName) -> String {
        format!("{}leases/{name}/", self.0)
    }

    pub(crate) fn part(&self, name: &LeaseName, part: Part) -> String {
        let part = match part {
            Part::Term => "term",
            Part::Beat => "beat",
        };
        format!("{}{part}", self.lease(name))
    }

    /// The beginning of the keys of a lease's history.
    pub(crate) fn history(&self, name: &LeaseName) -> String {
        format!("{}history/{name}/", self.0)
    }

    /// The mark of a fenced resource.
    pub(crate) fn mark(&self, resource: &str) -> String {
        format!("{}fences/{resource}", self.0)
    }

    /// The beginning of the keys that tell of a mark's repairs.
    pub(crate) fn lowered(&self, resource: &str) -> String {
        format!("{}fences-lowered/{resource}/", self.0)
    }

    /// The lease that a key belongs to, and which of its two it is; `None` for any other key.
    pub(crate) fn parse(&self, key: &[u8]) -> Option<(LeaseName, Part)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.0)?.strip_prefix("leases/")?;
        let (name, part) = key.split_once('/')?;
        let part = match part {
            "term" => Part::Term,
            "beat" => Part::Beat,
            _ => return None,
        };
        Some((LeaseName::new(name).ok()?, part))
    }
}

// === impl Values ===

impl Values {
    /// The values that hold a record.
    pub(crate) fn of(record: &Record) -> Self {
        let term = match record.term() {
            Some(term) => term_value(&term),
            None => format!("{}/free", record.epoch),
        };
        let beat = serde_json::to_string(record).expect("a record has no map with keys that aren't text");
        Self { term: Some(term), beat: Some(beat) }
    }

    pub(crate) fn set(&mut self, name: &LeaseName, part: Part, value: &[u8]) -> Result<(), BackendError> {
        let value = String::from_utf8(value.to_vec()).map_err(|_| foreign(name, "isn't text"))?;
        match part {
            Part::Term => self.term = Some(value),
            Part::Beat => self.beat = Some(value),
        }
        Ok(())
    }

    /// The register that they hold. A register exists if its beat does; a term key that somebody changed by hand is
    /// corrected by the next write, which compares the values found here.
    pub(crate) fn observation(
        self,
        name: &LeaseName,
        lineage: Lineage,
        floor: u64,
    ) -> Result<Observation, BackendError> {
        let record = match &self.beat {
            Some(beat) => Some(serde_json::from_str(beat).map_err(|error| foreign(name, error))?),
            None => None,
        };
        Ok(Observation { record, lineage, floor, version: self.version() })
    }

    /// For the observation of values that were just written.
    pub(crate) fn version(&self) -> String {
        serde_json::to_string(self).expect("two texts are JSON")
    }

    /// The values that `expected` saw; `None` if its version has another tag than its record. Then no write of this
    /// store left both, and nothing in it can be as expected.
    pub(crate) fn seen_by(expected: &Observation) -> Result<Option<Self>, BackendError> {
        let seen: Self = serde_json::from_str(&expected.version).map_err(|_| {
            BackendError::not_applied("the observation is not one of this store's: look again")
        })?;
        let same = match (&seen.beat, expected.tag()) {
            (Some(beat), Some(tag)) => beat.contains(&tag.to_string()),
            (None, None) => true,
            _ => false,
        };
        Ok(same.then_some(seen))
    }
}

/// The term key's value while `term` lasts.
pub(crate) fn term_value(term: &Term) -> String {
    format!("{}/{}", term.epoch, term.grant)
}

fn foreign(name: &LeaseName, why: impl std::fmt::Display) -> BackendError {
    BackendError::refused(format!(
        "the beat key of lease {name} holds something that is not a lease record ({why}): remove it, or use another \
         prefix"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> LeaseName {
        LeaseName::new(name).expect("a valid name")
    }

    #[test]
    fn keys_name_their_lease() {
        let keys = Keys::new("/leasehold/");
        for part in [Part::Term, Part::Beat] {
            let key = keys.part(&name("a.b-c"), part);
            assert_eq!(keys.parse(key.as_bytes()), Some((name("a.b-c"), part)));
        }
        for key in [
            "/leasehold/leases/a",
            "/leasehold/leases/a/else",
            "/other/leases/a/term",
            "/leasehold/history/a/beat",
        ] {
            assert_eq!(keys.parse(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn a_lease_shares_no_key_with_one_whose_name_begins_alike() {
        let keys = Keys::new("/leasehold");
        assert!(!keys.part(&name("a-b"), Part::Beat).starts_with(&keys.lease(&name("a"))));
    }
}
