//! The time slices of commands: each of their processes stamps the moments at which it runs, with its term's epoch.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lease_core::{Clock, Instant};
use serde::Serialize;

use super::sys;

/// The part that a process has in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProcessKind {
    /// What the guard started.
    Command,
    /// A child of it.
    Child,
    /// Forked twice, in a session of its own, deaf.
    Daemon,
    /// A process that forks and ends, again and again; deaf.
    Hopper,
}

const PARTS: [ProcessKind; 4] =
    [ProcessKind::Command, ProcessKind::Child, ProcessKind::Daemon, ProcessKind::Hopper];

/// Where the processes of one term leave their stamps.
pub(super) struct Stamps {
    /// For each part the negated first moment, so that both only grow from 0, and the last one.
    numbers: &'static [AtomicU64],
    clock: Clock,
}

impl Stamps {
    pub(super) fn open(folder: &Path, epoch: u64) -> io::Result<Self> {
        let path = folder.join(epoch.to_string());
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { numbers: sys::shared_numbers(&file, PARTS.len() * 2)?, clock: Clock::boot() })
    }

    /// This process runs now.
    pub(super) fn stamp(&self, part: ProcessKind) -> Instant {
        let now = self.clock.now();
        let at = part as usize * 2;
        self.numbers[at].fetch_max(u64::MAX - now.0, Ordering::Relaxed);
        self.numbers[at + 1].fetch_max(now.0, Ordering::Relaxed);
        now
    }
}

/// From the first to the last moment of one part of a term's command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) epoch: u64,
    pub(super) part: ProcessKind,
    pub(super) first: Instant,
    pub(super) last: Instant,
}

/// A process ran after a command of a later term had begun.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Overlap {
    lease: String,
    epoch: u64,
    part: ProcessKind,
    later_epoch: u64,
    millis: f64,
}

/// All slices in a folder, by epoch.
pub(super) fn read(folder: &Path) -> io::Result<Vec<Slice>> {
    let mut slices = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let Ok(epoch) = file.file_name().to_string_lossy().parse() else { continue };
        let bytes = fs::read(file.path())?;
        let numbers: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|number| u64::from_ne_bytes(number.try_into().expect("eight bytes")))
            .collect();
        for (part, pair) in PARTS.into_iter().zip(numbers.chunks_exact(2)) {
            if pair[1] > 0 {
                let (first, last) = (Instant(u64::MAX - pair[0]), Instant(pair[1]));
                slices.push(Slice { epoch, part, first, last });
            }
        }
    }
    slices.sort_by_key(|slice| slice.epoch);
    Ok(slices)
}

/// Every part of a term that ran after the beginning of the next one, and the shortest time between two terms.
pub(super) fn judge(lease: &str, slices: &[Slice]) -> (Vec<Overlap>, Option<Duration>) {
    let mut terms: Vec<(u64, Instant)> = Vec::new();
    for slice in slices {
        match terms.last_mut() {
            Some((epoch, first)) if *epoch == slice.epoch => *first = (*first).min(slice.first),
            _ => terms.push((slice.epoch, slice.first)),
        }
    }
    let (mut overlaps, mut shortest) = (Vec::new(), None::<Duration>);
    for slice in slices {
        let later = terms.iter().filter(|(epoch, _)| *epoch > slice.epoch);
        let Some((later_epoch, first)) = later.min_by_key(|(_, first)| *first) else { continue };
        if slice.last >= *first {
            overlaps.push(Overlap {
                lease: lease.to_owned(),
                epoch: slice.epoch,
                part: slice.part,
                later_epoch: *later_epoch,
                millis: slice.last.since(*first).as_secs_f64() * 1000.0,
            });
        }
        let gap = first.since(slice.last);
        shortest = Some(shortest.map_or(gap, |shortest| shortest.min(gap)));
    }
    (overlaps, shortest)
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lease, epoch, part, later_epoch, millis } = self;
        let part = format!("{part:?}").to_lowercase();
        write!(f, "{lease}: a {part} of epoch {epoch} ran {millis:.1} ms into epoch {later_epoch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(epoch: u64, first: u64, last: u64) -> Slice {
        Slice { epoch, part: ProcessKind::Daemon, first: Instant(first), last: Instant(last) }
    }

    #[test]
    fn terms_one_after_the_other_are_no_overlap() {
        let (overlaps, shortest) = judge("a", &[slice(1, 10, 20), slice(1, 12, 25), slice(3, 30, 40)]);
        assert!(overlaps.is_empty(), "{overlaps:?}");
        assert_eq!(shortest, Some(Duration::from_nanos(5)));
    }

    #[test]
    fn a_process_that_runs_into_any_later_term_is_an_overlap() {
        let (overlaps, _) = judge("a", &[slice(1, 10, 31), slice(2, 12, 13), slice(3, 30, 40)]);
        assert_eq!(overlaps.iter().map(|found| found.epoch).collect::<Vec<_>>(), [1]);
        let (overlaps, _) = judge("a", &[slice(1, 50, 60), slice(2, 10, 20)]);
        assert_eq!(overlaps.len(), 1, "a later term that came before an earlier one");
    }

    #[test]
    fn stamps_are_read_as_they_were_made() {
        let folder = lease_testbed::Folder::new("slices").unwrap();
        let stamps = Stamps::open(folder.path(), 7).unwrap();
        let first = stamps.stamp(ProcessKind::Hopper);
        let last = stamps.stamp(ProcessKind::Hopper);
        let slices = read(folder.path()).unwrap();
        assert_eq!(slices.len(), 1);
        assert_eq!((slices[0].epoch, slices[0].part), (7, ProcessKind::Hopper));
        assert_eq!((slices[0].first, slices[0].last), (first, last));
    }
}
