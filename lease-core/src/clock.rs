//! The only clock of the protocol: time since boot, suspend included (T-1). Wall clocks decide nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

/// A point on one process's own clock, in nanoseconds since boot. Meaningless to any other machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Instant(pub u64);

impl Instant {
    /// Before any moment that a running process sees.
    pub const ZERO: Self = Self(0);

    /// `span` later; stops at the end of time.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// `span` earlier; stops at boot.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }

    /// The time from `earlier` until this; zero if this isn't later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(span: Duration) -> u64 {
    span.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The source of time: `CLOCK_BOOTTIME`, or a clock that a test moves by hand.
///
/// Rust's own `Instant` is `CLOCK_MONOTONIC`, which stands still while Linux is suspended: a holder that slept for
/// an hour would believe in its lease. On macOS `CLOCK_MONOTONIC` runs on in sleep and is used instead.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    Boot,
    Manual(Arc<Manual>),
}

/// A sleeper looks at the clock again after this time: the runtime's timers stand still in suspend.
const LONGEST_NAP: Duration = Duration::from_secs(1);

impl Clock {
    /// The machine's own clock.
    pub fn boot() -> Self {
        Self(Source::Boot)
    }

    /// Now. One clock read (vDSO), no allocation.
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Boot => boottime(),
            Source::Manual(manual) => Instant(manual.nanos.load(Ordering::SeqCst)),
        }
    }

    /// Returns once the clock has reached `at`. Cancel safe: dropping it has no effect.
    pub async fn sleep_until(&self, at: Instant) {
        match &self.0 {
            Source::Boot => loop {
                let left = at.since(boottime());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_NAP)).await;
            },
            Source::Manual(manual) => loop {
                let moved = manual.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if self.now() >= at {
                    return;
                }
                manual.sleepers.lock().expect("not poisoned").push(at);
                moved.await;
            },
        }
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn boottime() -> Instant {
    timespec(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

#[cfg(not(target_os = "linux"))]
#[inline]
fn boottime() -> Instant {
    timespec(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[inline]
fn timespec(time: rustix::time::Timespec) -> Instant {
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[derive(Debug)]
struct Manual {
    nanos: AtomicU64,
    moved: Notify,
    sleepers: Mutex<Vec<Instant>>,
}

/// A clock that moves only when a test says so. Public, for the tests of programs that use leases.
///
/// ```
/// use lease_core::ManualClock;
/// use std::time::Duration;
///
/// let hand = ManualClock::new();
/// let clock = hand.clock();
/// let before = clock.now();
/// hand.advance(Duration::from_secs(15));
/// assert_eq!(clock.now().since(before), Duration::from_secs(15));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Manual>);

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl ManualClock {
    /// A clock that stands at one hour after boot.
    pub fn new() -> Self {
        let hour = Instant::ZERO.plus(Duration::from_secs(3600));
        Self(Arc::new(Manual {
            nanos: AtomicU64::new(hour.0),
            moved: Notify::new(),
            sleepers: Mutex::new(Vec::new()),
        }))
    }

    /// The clock for the code under test.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.0.clone()))
    }

    /// Moves the clock and wakes everybody who has slept long enough.
    pub fn advance(&self, span: Duration) {
        let now = self.0.nanos.fetch_add(nanos(span), Ordering::SeqCst).saturating_add(nanos(span));
        self.0.sleepers.lock().expect("not poisoned").retain(|at| at.0 > now);
        self.0.moved.notify_waiters();
    }

    /// The next moment for which somebody sleeps: where a test that skips idle time moves to.
    pub fn next_wake(&self) -> Option<Instant> {
        self.0.sleepers.lock().expect("not poisoned").iter().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_never_goes_back() {
        let clock = Clock::boot();
        let first = clock.now();
        assert!(first > Instant::ZERO && clock.now() >= first);
    }

    #[tokio::test]
    async fn a_manual_sleeper_wakes_only_at_its_time() {
        let hand = ManualClock::new();
        let clock = hand.clock();
        let wake = clock.now().plus(Duration::from_secs(2));
        let sleeper = tokio::spawn(async move { clock.sleep_until(wake).await });
        tokio::task::yield_now().await;
        assert_eq!(hand.next_wake(), Some(wake));
        hand.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        hand.advance(Duration::from_secs(1));
        sleeper.await.expect("wakes");
        assert_eq!(hand.next_wake(), None);
    }
}
