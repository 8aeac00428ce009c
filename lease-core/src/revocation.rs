//! A revocation as the register keeps it (H-3): who ended the term, and who holds off afterwards.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::Record;

/// The longest hold-off.
pub const LONGEST_HOLD_OFF: Duration = Duration::from_secs(7 * 86_400);

/// Kept in [`Record::extra`], so that versions that don't know it pass it on.
const REVOKED: &str = "revoked";

/// An operator's word that ended a term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Revocation {
    /// The revocation's own epoch: it ended every term below it.
    pub epoch: u64,
    /// The name of whoever revoked it, for people.
    #[serde(default)]
    pub by: String,
    /// The workload instance that comes after the others, or not before its time.
    #[serde(default)]
    pub except: Option<String>,
    /// The time for which it holds off, in milliseconds of its own clock from when it first sees this.
    #[serde(default)]
    pub for_ms: u64,
}

impl Revocation {
    /// The latest revocation that the register knows of, until a new term drops it.
    pub fn of(record: &Record) -> Option<Self> {
        Self::deserialize(record.extra.get(REVOKED)?).ok()
    }

    /// Is there no term since?
    pub fn ended_the_last_term(&self, record: &Record) -> bool {
        self.epoch == record.epoch
    }

    /// The time for which [`except`](Self::except) holds off.
    pub fn hold_off(&self) -> Duration {
        Duration::from_millis(self.for_ms).min(LONGEST_HOLD_OFF)
    }

    pub(crate) fn keep_in(self, record: &mut Record) {
        let value = serde_json::to_value(self).expect("texts and numbers are JSON");
        record.extra.insert(REVOKED.to_owned(), value);
    }

    /// Drops it: it has had its effect, or somebody else has led since.
    pub fn forget(record: &mut Record) {
        record.extra.remove(REVOKED);
    }
}
