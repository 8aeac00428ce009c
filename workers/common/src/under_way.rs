//! Work under way: counted, so that stopping waits for it and for nothing else (H-1).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease_settings::Failure;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The pieces of work that have begun and not ended. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UnderWay {
    tracker: TaskTracker,
    /// Their names. The lock also makes closing and beginning exclude each other.
    names: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    next: u64,
    now: BTreeMap<u64, String>,
}

impl UnderWay {
    /// Begins a piece of work, which ends when the piece is dropped; `None` once it is [closed](Self::close).
    pub fn begin(&self, what: impl fmt::Display) -> Option<Piece> {
        let mut names = self.names();
        if self.tracker.is_closed() {
            return None;
        }
        let id = names.next;
        names.next += 1;
        names.now.insert(id, what.to_string());
        Some(Piece { of: self.clone(), id, _token: self.tracker.token() })
    }

    /// Lets nothing begin from here on.
    pub fn close(&self) {
        let _names = self.names();
        self.tracker.close();
    }

    /// Waits, once it is closed, until nothing is under way, but no longer than `budget`. Cancel safe.
    ///
    /// # Errors
    /// As [`abandoned`](Self::abandoned).
    pub async fn drained(&self, budget: Duration, then: &str) -> Result<(), Failure> {
        tokio::time::timeout(budget, self.tracker.wait()).await.map_err(|_| self.abandoned(budget, then))
    }

    /// The failure of a process whose stop budget is used up. It names the work that is left undone; `then` says what
    /// happens to it.
    pub fn abandoned(&self, budget: Duration, then: &str) -> Failure {
        Failure::new(format!("not stopped within the stop budget of {budget:?}: abandoned {self}; {then}"))
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pieces under way, for people: the first few by name.
impl fmt::Display for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 5;
        let names = self.names();
        let named: Vec<_> = names.now.values().take(NAMED).map(String::as_str).collect();
        match names.now.len() {
            0 => f.write_str("nothing"),
            all if all > NAMED => write!(f, "{} and {} more", named.join(", "), all - NAMED),
            _ => f.write_str(&named.join(", ")),
        }
    }
}

/// A piece of work under way; dropping it ends it.
#[derive(Debug)]
#[must_use = "dropping it ends the piece of work"]
pub struct Piece {
    of: UnderWay,
    id: u64,
    _token: TaskTrackerToken,
}

impl Piece {
    /// Changes its name: how far it is.
    pub fn is_now(&self, what: impl fmt::Display) {
        self.of.names().now.insert(self.id, what.to_string());
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.of.names().now.remove(&self.id);
    }
}

/// The one batch that a leader has under way. It stays here when the work is dropped in its middle, so that the
/// process can say what it leaves behind.
#[derive(Debug, Default)]
pub struct Batch {
    all: UnderWay,
    piece: Mutex<Option<Piece>>,
}

impl Batch {
    /// It has begun, or is as far as this.
    pub fn is_now(&self, what: impl fmt::Display) {
        let mut piece = self.piece();
        match &*piece {
            Some(piece) => piece.is_now(what),
            None => *piece = self.all.begin(what),
        }
    }

    /// It is over, however it ended.
    pub fn over(&self) {
        *self.piece() = None;
    }

    /// For those who wait for its end, or say what it was.
    pub fn all(&self) -> &UnderWay {
        &self.all
    }

    fn piece(&self) -> MutexGuard<'_, Option<Piece>> {
        self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn closing_lets_nothing_begin_and_waits_for_what_has() {
        let work = UnderWay::default();
        let (first, second) = (work.begin("a"), work.begin("b"));
        work.close();
        assert!(work.begin("c").is_none());
        assert_eq!(work.to_string(), "a, b");
        drop(first);
        second.iter().for_each(|piece| piece.is_now("b, nearly done"));
        assert_eq!(work.to_string(), "b, nearly done");
        assert!(work.tracker.wait().now_or_never().is_none());
        drop(second);
        assert!(work.tracker.wait().now_or_never().is_some());
        assert_eq!(work.to_string(), "nothing");
    }
}
