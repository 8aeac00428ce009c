//! What a process leaves behind of its own accord: an append-only file, one JSON line for each thing that it did.
//!
//! Every stamp is the host's CLOCK_BOOTTIME in nanoseconds, so stamps of different processes of one host compare.
//! A line is written by one `write` call before the process goes on: SIGKILL loses none.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use lease_core::{Change, Clock, Grant, Term};
use serde::{Deserialize, Serialize};

/// Nanoseconds of CLOCK_BOOTTIME.
pub(crate) type Nanos = u64;

/// Now.
pub(crate) fn now() -> Nanos {
    Clock::boot().now().0
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The process runs.
    Started { at: Nanos, pid: u32 },
    /// Its hints from the store are live, or no longer.
    Watching { at: Nanos, live: bool },
    /// The store showed another beat than before, in a call sent and answered at these times.
    Saw { sent: Nanos, at: Nanos, epoch: u64, grant: Option<Grant>, beat: u64 },
    /// A write that this process sent for a term of its own.
    Put { sent: Nanos, answered: Nanos, act: Act, epoch: u64, beat: u64, outcome: Outcome },
    /// A term began: the work runs.
    Begin { at: Nanos, term: Term },
    /// `is_leader_now()` was true at some moment between the two stamps, and would stay so until `until` at least.
    Claim { from: Nanos, to: Nanos, until: Nanos, term: Term },
    /// It passed its own check and stops itself before the effect.
    Paused { at: Nanos, term: Term },
    /// A fenced effect was tried; `number` and the incarnation name its row.
    Effect { before: Nanos, after: Nanos, number: u64, term: Term, outcome: Outcome },
    /// The work returns, still leading or not.
    Returned { at: Nanos, term: Term, leading: bool },
    /// The elector said that a term is over.
    Ended { at: Nanos, term: Term, loss: String },
    /// It ends of its own accord.
    Exit { at: Nanos, how: String },
}

/// What a write meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Act {
    Acquire,
    Renew,
    Release,
}

impl Act {
    pub(crate) fn of(change: Change) -> Option<Self> {
        match change {
            Change::Acquire => Some(Self::Acquire),
            Change::Renew => Some(Self::Renew),
            Change::Release => Some(Self::Release),
            _ => None,
        }
    }
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Acknowledged.
    Written,
    /// The register was no longer as expected, or the fence refused the term: nothing was changed.
    Refused,
    /// Nobody knows, or certainly not.
    Failed(String),
}

/// Where a process writes its lines.
#[derive(Clone, Debug)]
pub(crate) struct Trace(Arc<Mutex<File>>);

impl Trace {
    pub(crate) fn append(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Writes one line.
    ///
    /// # Panics
    /// If it can't be written: a run without its evidence proves nothing.
    pub(crate) fn add(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry serialises");
        line.push(b'\n');
        self.0.lock().expect("not poisoned").write_all(&line).expect("the trace must be writable");
    }
}

/// Reads a trace while it grows.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The complete lines that came since the last call; none if the file doesn't exist yet.
    pub(crate) fn read(&mut self) -> anyhow::Result<Vec<Entry>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A process that is killed within its write leaves at most one line without an end.
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += complete as u64;
        bytes[..complete]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).with_context(|| format!("bad line in {}", self.path.display()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_reads_each_complete_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.read().unwrap(), []);
        let trace = Trace::append(&path).unwrap();
        let entry = Entry::Started { at: 7, pid: 1 };
        trace.add(&entry);
        trace.0.lock().unwrap().write_all(b"{\"what\":").unwrap();
        assert_eq!(tail.read().unwrap(), [entry]);
        trace.0.lock().unwrap().write_all(b"\"exit\",\"at\":9,\"how\":\"x\"}\n").unwrap();
        assert_eq!(tail.read().unwrap(), [Entry::Exit { at: 9, how: "x".into() }]);
    }
}
