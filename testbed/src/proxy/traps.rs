//! Faults for one chosen request: held back, or its reply lost.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context;
use tokio::sync::oneshot;

use super::request::ProxiedRequest;

/// The time limit for a trap to catch a request: far beyond any ttl in a test.
const CATCH_LIMIT: Duration = Duration::from_secs(120);

type Matches = Box<dyn Fn(&ProxiedRequest) -> bool + Send + Sync>;

/// The traps that are armed; each catches one request.
#[derive(Default)]
pub(super) struct Traps(Mutex<(u64, Vec<Trap>)>);

struct Trap {
    id: u64,
    matches: Matches,
    action: TrapAction,
}

pub(super) enum TrapAction {
    Hold { caught: oneshot::Sender<ProxiedRequest>, decision: oneshot::Receiver<Decision> },
    LoseReply { lost: oneshot::Sender<ProxiedRequest> },
}

pub(super) enum Decision {
    Release,
    Discard,
}

/// A trap that holds one request back; made by [`Proxy::hold`](super::Proxy::hold).
///
/// Later bytes of the client on the same connection wait too. As in a real network, the held bytes are on their way
/// whether or not their sender still lives: they reach the server on release, even if the client has closed its
/// connection or was killed meanwhile. Dropping this value releases them, or disarms the trap.
#[must_use = "dropping it disarms the trap"]
pub struct Hold {
    armed: Armed,
    decision: oneshot::Sender<Decision>,
}

/// A trap that loses one reply; made by [`Proxy::lose_reply`](super::Proxy::lose_reply). Dropping this value disarms
/// the trap unless a request is in it already.
#[must_use = "dropping it disarms the trap"]
pub struct LostReply {
    armed: Armed,
}

/// Removes its trap on drop.
struct Armed {
    traps: Arc<Traps>,
    id: u64,
    signal: oneshot::Receiver<ProxiedRequest>,
    caught: Option<ProxiedRequest>,
}

// === impl Traps ===

impl Traps {
    pub(super) fn hold(self: &Arc<Self>, matches: Matches) -> Hold {
        let (caught, signal) = oneshot::channel();
        let (decision, receiver) = oneshot::channel();
        Hold { armed: self.arm(matches, TrapAction::Hold { caught, decision: receiver }, signal), decision }
    }

    pub(super) fn lose_reply(self: &Arc<Self>, matches: Matches) -> LostReply {
        let (lost, signal) = oneshot::channel();
        LostReply { armed: self.arm(matches, TrapAction::LoseReply { lost }, signal) }
    }

    /// The action for a request, whose trap is used up by that.
    pub(super) fn catch(&self, request: &ProxiedRequest) -> Option<TrapAction> {
        let traps = &mut self.lock().1;
        let caught = traps.iter().position(|trap| (trap.matches)(request))?;
        Some(traps.remove(caught).action)
    }

    fn arm(
        self: &Arc<Self>,
        matches: Matches,
        action: TrapAction,
        signal: oneshot::Receiver<ProxiedRequest>,
    ) -> Armed {
        let mut traps = self.lock();
        traps.0 += 1;
        let id = traps.0;
        traps.1.push(Trap { id, matches, action });
        Armed { traps: self.clone(), id, signal, caught: None }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Trap>)> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Hold ===

impl Hold {
    /// Waits until a request is held, and returns it. The server has seen nothing of it.
    ///
    /// # Errors
    /// When none came within 120 s. Cancel-safe.
    pub async fn held(&mut self) -> anyhow::Result<ProxiedRequest> {
        self.armed.signalled("no request was held").await
    }

    /// Passes the request on.
    pub fn release(self) {
        // An error means that nothing is held: the trap is disarmed.
        let _ = self.decision.send(Decision::Release);
    }

    /// Throws the request away and cuts its connection: certainly not applied, though the client can't know.
    pub fn discard(self) {
        let _ = self.decision.send(Decision::Discard);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("caught", &self.armed.caught).finish_non_exhaustive()
    }
}

// === impl LostReply ===

impl LostReply {
    /// Waits until a request has been answered by the server, and the connection cut without passing the reply
    /// on; returns the request. It was applied, unless the server refused it.
    ///
    /// # Errors
    /// When none came within 120 s, or the connection ended before the server had answered. Cancel-safe.
    pub async fn lost(&mut self) -> anyhow::Result<ProxiedRequest> {
        self.armed.signalled("no reply was lost").await
    }
}

impl fmt::Debug for LostReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LostReply").field("lost", &self.armed.caught).finish_non_exhaustive()
    }
}

// === impl Armed ===

impl Armed {
    async fn signalled(&mut self, otherwise: &'static str) -> anyhow::Result<ProxiedRequest> {
        if let Some(request) = &self.caught {
            return Ok(request.clone());
        }
        let signal = tokio::time::timeout(CATCH_LIMIT, &mut self.signal).await;
        let request = signal
            .with_context(|| format!("{otherwise} within {CATCH_LIMIT:?}"))?
            .with_context(|| format!("{otherwise}: the connection ended first"))?;
        Ok(self.caught.insert(request).clone())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.traps.lock().1.retain(|trap| trap.id != self.id);
    }
}
