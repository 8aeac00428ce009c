//! The metrics of leadership, derived from the elector's events, here and nowhere else.

use std::time::Instant;

use futures::{Stream, StreamExt};
use lease_core::{EventKind, LeaseEvent, LeaseName};
use metrics::{counter, describe_counter, gauge, histogram};

/// Terms that began here after another process's, by lease.
pub const TAKEOVERS: &str = "spendguard_lease_takeovers_total";

/// Derives the metrics of these two names until the events end: the gauge that is 1 while this instance leads, and
/// the histogram of how long its terms have lasted, observed at each acknowledged beat and at a term's end. And counts
/// takeovers: a lease's first term, and one that follows this process's own, are none.
pub async fn follow<E>(
    events: impl Stream<Item = Result<LeaseEvent, E>>,
    is_leader: &'static str,
    leader_age: &'static str,
) {
    let observe_age = |began: &Instant| histogram!(leader_age).record(began.elapsed());
    describe_counter!(TAKEOVERS, "terms of the lease that began here after another process's");
    let takeovers = |lease: &LeaseName| counter!(TAKEOVERS, "lease" => lease.to_string());
    let (mut began, mut own) = (None::<Instant>, 0);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        // A reader that fell behind goes on with what follows.
        let Ok(event) = event else { continue };
        match event.kind {
            // Shown before it happens: what begins at 1 has not increased.
            EventKind::Connected { .. } => takeovers(&event.lease).increment(0),
            EventKind::Acquired { term, .. } => {
                takeovers(&event.lease).increment(u64::from(term.epoch != own + 1));
                own = term.epoch;
                began = Some(Instant::now());
                gauge!(is_leader).set(1);
            }
            EventKind::Renewed(_) => began.iter().for_each(observe_age),
            EventKind::Ended { .. } => {
                began.take().iter().for_each(observe_age);
                gauge!(is_leader).set(0);
            }
            _ => {}
        }
    }
    gauge!(is_leader).set(0);
}
