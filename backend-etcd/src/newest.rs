//! The greatest revision seen of a cluster: a restored one falls back behind it, maybe under the same cluster id.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lease_core::Lineage;

/// Kept over reconnections. A backup that is restored under the same cluster id has forgotten the newest writes, the
/// newest acquisition perhaps among them, so from then on its registers are another lineage's to whoever has seen
/// more (R-2, T-3). A process that starts afterwards can't tell: after a restore under the same id, let one ttl pass
/// before anything is started, or restore under another `--initial-cluster-token`.
#[derive(Debug, Default)]
pub(crate) struct Newest(Mutex<State>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    cluster: u64,
    revision: u64,
    /// The revision that the cluster had reached when it was found restored.
    restored_after: Option<u64>,
}

/// The knowledge from before a call was sent: its answer can't be older.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before(State);

impl Newest {
    pub(crate) fn before(&self) -> Before {
        Before(*self.lock())
    }

    /// The lineage, given the answer to a linearizable call.
    pub(crate) fn saw(&self, before: Before, cluster: u64, revision: u64) -> Lineage {
        let mut state = self.lock();
        if state.cluster != cluster {
            *state = State { cluster, revision, restored_after: None };
        } else if revision < before.0.revision && state.restored_after == before.0.restored_after {
            let revision_before = before.0.revision;
            tracing::warn!(
                cluster = format!("{cluster:x}"),
                revision,
                revision_before,
                "etcd has forgotten its newest revisions: it was restored from a backup; its leases are waited out"
            );
            *state = State { cluster, revision, restored_after: Some(revision_before) };
        } else {
            state.revision = state.revision.max(revision);
        }
        state.lineage()
    }

    /// A revision that a watch showed, maybe late.
    pub(crate) fn heard(&self, cluster: u64, revision: u64) {
        let mut state = self.lock();
        if state.cluster == cluster {
            state.revision = state.revision.max(revision);
        }
    }

    /// The lineage of a cluster, as far as it is known now.
    pub(crate) fn lineage(&self, cluster: u64) -> Lineage {
        let state = *self.lock();
        if state.cluster == cluster {
            state.lineage()
        } else {
            State { cluster, ..State::default() }.lineage()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lineage(&self) -> Lineage {
        Lineage(match self.restored_after {
            None => format!("{:x}", self.cluster),
            Some(revision) => format!("{:x} restored after {revision}", self.cluster),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_that_go_back_are_another_lineage() {
        let newest = Newest::default();
        let first = newest.saw(newest.before(), 7, 100);
        let slow = newest.before();
        assert_eq!(newest.saw(newest.before(), 7, 101), first);
        assert_eq!(newest.saw(slow, 7, 100), first, "an answer may be overtaken by another");
        let slow = newest.before();
        let restored = newest.saw(newest.before(), 7, 50);
        assert_ne!(restored, first);
        assert_eq!(newest.saw(slow, 7, 51), restored, "told by two calls, it is one restore");
        assert_eq!(newest.saw(newest.before(), 7, 200), restored, "it stays another");
        assert_eq!(newest.lineage(7), restored);
        let again = newest.saw(newest.before(), 7, 60);
        assert!(again != restored && again != first);
        assert_ne!(newest.saw(newest.before(), 8, 1), first);
    }
}
