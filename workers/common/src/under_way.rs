//! What a role has under way: counted, so that stopping waits for it and for nothing else (H-1).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease_settings::Failure;
use tokio::sync::watch;

/// The pieces of work that have begun and not ended. Cheap to clone.
#[derive(Clone, Debug)]
pub struct UnderWay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pieces: Mutex<Pieces>,
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Pieces {
    closed: bool,
    next: u64,
    now: BTreeMap<u64, String>,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self::new()
    }
}

impl UnderWay {
    /// Nothing yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner { pieces: Mutex::default(), count: watch::channel(0).0 }))
    }

    /// Begins a piece of work, which ends when the piece is dropped; `None` once it is [closed](Self::close).
    pub fn begin(&self, what: impl fmt::Display) -> Option<Piece> {
        let mut pieces = self.pieces();
        if pieces.closed {
            return None;
        }
        let id = pieces.next;
        pieces.next += 1;
        pieces.now.insert(id, what.to_string());
        self.0.count.send_replace(pieces.now.len());
        Some(Piece { of: self.clone(), id })
    }

    /// Lets nothing begin from here on.
    pub fn close(&self) {
        self.pieces().closed = true;
    }

    /// How many pieces are under way.
    pub fn count(&self) -> usize {
        self.pieces().now.len()
    }

    /// Resolves when nothing is under way. Cancel safe.
    pub async fn none(&self) {
        let mut count = self.0.count.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Waits until nothing is under way, but no longer than `budget`.
    ///
    /// # Errors
    /// As [`abandoned`](Self::abandoned).
    pub async fn drained(&self, budget: Duration, then: &str) -> Result<(), Failure> {
        tokio::time::timeout(budget, self.none()).await.map_err(|_| self.abandoned(budget, then))
    }

    /// The stop budget is used up: the process ends with exit code 1 and says what it leaves undone; `then` says what
    /// becomes of it.
    pub fn abandoned(&self, budget: Duration, then: &str) -> Failure {
        Failure::new(format!("not stopped within the stop budget of {budget:?}: abandoned {self}; {then}"))
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.0.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is under way, for people: the first few by name.
impl fmt::Display for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 5;
        let pieces = self.pieces();
        let named: Vec<_> = pieces.now.values().take(NAMED).map(String::as_str).collect();
        match pieces.now.len() {
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
}

impl Piece {
    /// Says how far it is.
    pub fn is_now(&self, what: impl fmt::Display) {
        self.of.pieces().now.insert(self.id, what.to_string());
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut pieces = self.of.pieces();
        pieces.now.remove(&self.id);
        self.of.0.count.send_replace(pieces.now.len());
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
        let work = UnderWay::new();
        let (first, second) = (work.begin("a"), work.begin("b"));
        work.close();
        assert!(work.begin("c").is_none());
        assert_eq!((work.count(), work.to_string()), (2, "a, b".to_owned()));
        drop(first);
        second.iter().for_each(|piece| piece.is_now("b, nearly done"));
        assert_eq!(work.to_string(), "b, nearly done");
        assert!(work.none().now_or_never().is_none());
        drop(second);
        assert!(work.none().now_or_never().is_some());
        assert_eq!(work.to_string(), "nothing");
    }
}
