//! W-1: the work that a lease is for, so that two fleets with different work never share one.

use crate::printable::is_hidden;
use crate::record::Record;

/// Kept in [`Record::extra`], so that versions that don't know it pass it on.
const WORK: &str = "work";

/// The longest name of a work, in bytes.
pub(crate) const MAX_LEN: usize = 253;

impl Record {
    /// The work that this lease is for; `None` until somebody who names one has acquired it (W-1).
    pub fn work(&self) -> Option<&str> {
        self.extra.get(WORK)?.as_str()
    }

    /// May a candidate with this work acquire the lease?
    pub(crate) fn is_for(&self, work: Option<&str>) -> bool {
        self.work().is_none_or(|known| Some(known) == work)
    }

    /// The lease is for this work from now on, or for whichever comes next.
    pub(crate) fn keep_work(&mut self, work: Option<&str>) {
        match work {
            Some(work) => self.extra.insert(WORK.to_owned(), work.into()),
            None => self.extra.remove(WORK),
        };
    }
}

/// The two works, and the way out.
pub(crate) fn differs(theirs: &str, ours: Option<&str>) -> String {
    let ours = ours.map_or_else(|| "this candidate names none".to_owned(), |ours| format!("this is {ours}"));
    format!(
        "its work is {theirs}, and {ours}; use another leaseName here, or, if that work is gone for good, run \
         `leasehold forget-work` for the lease"
    )
}

/// Can a record and a log line hold it?
pub(crate) fn is_valid(work: &str) -> bool {
    !work.is_empty() && work.len() <= MAX_LEN && !work.contains(is_hidden)
}
