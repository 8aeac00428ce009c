//! The metrics of leadership, derived from the elector's events, here and nowhere else.

use std::time::Instant;

use futures::{Stream, StreamExt};
use lease_core::{EventKind, LeaseEvent};
use metrics::{gauge, histogram};

/// Derives the metrics of these two names until the events end: the gauge that is 1 while this instance leads, and
/// the histogram of how long its terms have lasted, observed at each acknowledged beat and at a term's end.
pub async fn follow<E>(
    events: impl Stream<Item = Result<LeaseEvent, E>>,
    is_leader: &'static str,
    leader_age: &'static str,
) {
    let observe_age = |began: &Instant| histogram!(leader_age).record(began.elapsed());
    let mut began = None::<Instant>;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        // A reader that fell behind goes on with what follows.
        let Ok(event) = event else { continue };
        match event.kind {
            EventKind::Acquired { .. } => {
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
