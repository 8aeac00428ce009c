//! When a failure that goes on is worth another line of the log.

use std::time::{Duration, Instant};

/// The first pause between two lines about the same failure; each later one is twice as long.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Failures that are told apart at once. Of more, the first is forgotten, and told anew.
const KINDS: usize = 8;

/// The failures of one thing since it last worked. For people only: nothing is decided by it.
#[derive(Debug, Default)]
pub struct Repeated {
    kinds: Vec<Kind>,
    count: u64,
    since: Option<Instant>,
}

#[derive(Debug)]
struct Kind {
    what: String,
    count: u64,
    pause: Duration,
    tell_at: Instant,
}

impl Repeated {
    /// It has failed in this way. `Some` if that is to be told now: how often it has failed so.
    pub fn failed(&mut self, what: &str, now: Instant) -> Option<u64> {
        self.since.get_or_insert(now);
        self.count += 1;
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.what == what) {
            kind.count += 1;
            if now < kind.tell_at {
                return None;
            }
            kind.pause = (kind.pause * 2).min(LONGEST_PAUSE);
            kind.tell_at = now + kind.pause;
            return Some(kind.count);
        }
        if self.kinds.len() == KINDS {
            self.kinds.remove(0);
        }
        let (what, pause) = (what.to_owned(), SHORTEST_PAUSE);
        self.kinds.push(Kind { what, count: 1, pause, tell_at: now + pause });
        Some(1)
    }

    /// It works. `Some` if it did not: how often it has failed, and for how long.
    pub fn works(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let Self { count, since, .. } = std::mem::take(self);
        since.map(|since| (count, now - since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_told_at_once_and_then_at_growing_intervals_up_to_a_minute() {
        let (start, mut repeated) = (Instant::now(), Repeated::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let told: Vec<_> = (0..400)
            .filter_map(|second| repeated.failed("no answer", at(second)).map(|count| (second, count)))
            .collect();
        let expected = [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363].map(|second| (second, second + 1));
        assert_eq!(told, expected);
        assert_eq!(repeated.works(at(400)), Some((400, Duration::from_secs(400))));
        assert_eq!(repeated.works(at(401)), None);
        assert_eq!(repeated.failed("no answer", at(401)), Some(1), "after a recovery it is news");
    }

    #[test]
    fn another_failure_is_told_at_once_however_many_there_are() {
        let (now, mut repeated) = (Instant::now(), Repeated::default());
        for count in 0..100 {
            assert_eq!(repeated.failed(&format!("{count}"), now), Some(1));
        }
        assert_eq!(repeated.failed("99", now), None);
        assert_eq!(repeated.kinds.len(), KINDS);
    }
}
