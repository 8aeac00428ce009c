//! A thread that asks `is_leader_now()` again and again, beside the work: evidence from outside the elector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_core::{Clock, Instant, Leadership};

use super::teller::Teller;
use crate::history::What;

/// The pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// It tells at least this often, also if nothing has changed.
const TELL_EVERY: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(super) struct Sampler(Arc<Mutex<Option<Sampled>>>);

/// The present term, and what was told of it.
struct Sampled {
    leadership: Leadership,
    asked_at: Instant,
    told_at: Instant,
    told_until: Instant,
    longest_gap: Duration,
}

impl Sampler {
    pub(super) fn start(teller: Teller) -> Self {
        let sampler = Self(Arc::default());
        let present = sampler.0.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(ASK_EVERY);
                // Held until it is told: no claim of a term is told after the term's work has returned.
                if let Some(sampled) = &mut *present.lock().expect("not poisoned") {
                    sampled.ask(&teller);
                }
            }
        });
        sampler
    }

    /// From here on this term is asked; `None` if there is none.
    pub(super) fn leads(&self, leadership: Option<Leadership>) {
        let now = Clock::boot().now();
        *self.0.lock().expect("not poisoned") = leadership.map(|leadership| Sampled {
            leadership,
            asked_at: now,
            told_at: Instant::ZERO,
            told_until: Instant::ZERO,
            longest_gap: Duration::ZERO,
        });
    }
}

impl Sampled {
    fn ask(&mut self, teller: &Teller) {
        let from = Clock::boot().now();
        self.longest_gap = self.longest_gap.max(from.since(self.asked_at));
        self.asked_at = from;
        let remaining = self.leadership.remaining();
        if !self.leadership.is_leader_now() {
            return;
        }
        let (at, until) = (Clock::boot().now(), from.plus(remaining));
        let moved = until.since(self.told_until) > Duration::from_millis(1);
        if moved || self.longest_gap > TELL_EVERY || at.since(self.told_at) > TELL_EVERY {
            let (term, gap_ms) = (self.leadership.term(), self.longest_gap.as_millis() as u64);
            teller.tell_at(at, What::Claimed { term, from, until, gap_ms });
            (self.told_at, self.told_until, self.longest_gap) = (at, until, Duration::ZERO);
        }
    }
}
