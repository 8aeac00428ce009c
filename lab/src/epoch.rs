//! Epochs for people.

/// The bit at which the server's timeline begins in an epoch of PostgreSQL (E-1).
const TIMELINE_SHIFT: u32 = 46;

/// An epoch for people. In PostgreSQL its upper part is the server's timeline: `1·7`.
pub(crate) fn epoch_in_words(epoch: u64) -> String {
    match epoch >> TIMELINE_SHIFT {
        0 => epoch.to_string(),
        timeline => format!("{timeline}·{}", within_timeline(epoch)),
    }
}

/// The part of an epoch that counts acquisitions.
pub(crate) fn within_timeline(epoch: u64) -> u64 {
    epoch & ((1 << TIMELINE_SHIFT) - 1)
}
