//! Takes events in, from any thread: in memory, or as lines of JSON for another process.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use lease_core::{Instant, LeaseName};

use crate::history::{History, HistoryEntry, What};

/// The recorder of one process. Clones record into the same place.
#[derive(Clone)]
pub struct Recorder(Sink);

#[derive(Clone)]
enum Sink {
    Memory(Arc<Mutex<Vec<(LeaseName, HistoryEntry)>>>),
    Printed,
    Appended(Arc<Mutex<File>>),
}

impl Default for Recorder {
    /// In memory.
    fn default() -> Self {
        Self(Sink::Memory(Arc::default()))
    }
}

impl Recorder {
    /// Prints each event as one line on standard output, for the process that started this one.
    pub fn printing() -> Self {
        Self(Sink::Printed)
    }

    /// Appends each event as one line to a file, before the process goes on: SIGKILL loses none.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn appending(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(Sink::Appended(Arc::new(Mutex::new(file)))))
    }

    /// Takes one event in.
    ///
    /// # Panics
    /// If it can't be appended to the file: a process must not go on without leaving evidence.
    pub fn record(&self, lease: &LeaseName, at: Instant, actor: &str, what: What) {
        let event = HistoryEntry { at, actor: actor.to_owned(), what };
        match &self.0 {
            Sink::Memory(events) => events.lock().expect("not poisoned").push((lease.clone(), event)),
            // Nobody is left to read when this fails.
            Sink::Printed => drop(std::io::stdout().lock().write_all(&line(&event))),
            Sink::Appended(file) => {
                let written = file.lock().expect("not poisoned").write_all(&line(&event));
                written.expect("the history must be writable");
            }
        }
    }

    /// The leases that something happened to; none if the events aren't kept in memory.
    pub fn leases(&self) -> Vec<LeaseName> {
        let mut leases: Vec<_> = self.kept(|_| true).into_iter().map(|(lease, _)| lease).collect();
        leases.sort();
        leases.dedup();
        leases
    }

    /// The events of `lease` so far; none if they aren't kept in memory.
    pub fn history(&self, lease: &LeaseName) -> History {
        let events = self.kept(|of| of == lease).into_iter().map(|(_, event)| event).collect();
        let mut history = History { events, ..History::default() };
        history.sort();
        history
    }

    fn kept(&self, wanted: impl Fn(&LeaseName) -> bool) -> Vec<(LeaseName, HistoryEntry)> {
        let Sink::Memory(events) = &self.0 else { return Vec::new() };
        let events = events.lock().expect("not poisoned");
        events.iter().filter(|(lease, _)| wanted(lease)).cloned().collect()
    }
}

fn line(event: &HistoryEntry) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("events are plain data");
    line.push(b'\n');
    line
}
