//! A final register's account of its move: the text of [`Record::sealed`].

use std::fmt;
use std::str::FromStr;

use crate::record::{Grant, Observation, Record};

/// In [`Record::extra`] of a register that was opened by a move: the grants of the closed registers that the lease was
/// opened as on its way here, this one last.
const OPENED_AS: &str = "opened_as";

/// A way back that is longer than this is refused, and leads over `init`.
const LONGEST_WAY: usize = 32;

/// Why a register is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It waits for a move that begins in the store of this name.
    Prepared {
        /// The old store's mode, for people.
        from: String,
    },
    /// The lease lives elsewhere, in the register that was prepared with this grant.
    Moved {
        /// The new store's mode, for people.
        to: String,
        /// Names the register there.
        register: Grant,
    },
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared { from } => write!(f, "prepared for a move from {from}"),
            Self::Moved { to, register } => write!(f, "moved to {to} as {register}"),
        }
    }
}

impl FromStr for Mark {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(from) = text.strip_prefix("prepared for a move from ") {
            return Ok(Self::Prepared { from: from.to_owned() });
        }
        let (to, register) =
            text.strip_prefix("moved to ").and_then(|rest| rest.rsplit_once(" as ")).ok_or(())?;
        Ok(Self::Moved { to: to.to_owned(), register: register.parse().map_err(drop)? })
    }
}

/// A register's role in a move.
#[derive(Debug)]
pub(super) enum MoveRole<'a> {
    Absent,
    /// The lease lives here.
    Open(&'a Record),
    Prepared(&'a Record, Grant, String),
    Moved(&'a Record, Grant, String),
    /// Sealed by something that we don't know.
    Foreign(&'a str),
}

impl<'a> MoveRole<'a> {
    pub(super) fn of(observation: &'a Observation) -> Self {
        let Some(record) = &observation.record else { return Self::Absent };
        let Some(text) = &record.sealed else { return Self::Open(record) };
        match (text.parse(), record.grant) {
            (Ok(Mark::Prepared { from }), Some(grant)) => Self::Prepared(record, grant, from),
            (Ok(Mark::Moved { to, register }), _) => Self::Moved(record, register, to),
            _ => Self::Foreign(text),
        }
    }
}

/// The lease's way here: the closed registers that it was opened as.
fn way(record: &Record) -> Vec<String> {
    let way = record.extra.get(OPENED_AS).and_then(|way| way.as_array());
    way.into_iter().flatten().filter_map(|step| step.as_str().map(str::to_owned)).collect()
}

/// Did the lease come to `record` by way of the register that was prepared with this grant?
pub(super) fn came_by(record: &Record, register: Grant) -> bool {
    way(record).contains(&register.to_string())
}

/// `opened` was prepared as `register`, and the lease comes from `old`.
pub(super) fn continue_way(opened: &mut Record, old: &Record, register: Grant) {
    let mut way = way(old);
    way.push(register.to_string());
    let outdated = way.len().saturating_sub(LONGEST_WAY);
    opened.extra.insert(OPENED_AS.to_owned(), way.split_off(outdated).into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        for mark in [
            Mark::Prepared { from: "postgres".to_owned() },
            Mark::Moved { to: "etcd as we know it".to_owned(), register: Grant(7) },
        ] {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        assert_eq!("gone fishing".parse::<Mark>(), Err(()));
    }
}
