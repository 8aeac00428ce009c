//! The metrics of leadership, by the names that operators' dashboards use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::{Stream, StreamExt};
use lease_core::{EventKind, LeaseEvent, LeaseName};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Terms that began here after another process's, by lease.
pub const TAKEOVERS: &str = "spendguard_lease_takeovers_total";

/// The names of one role's metrics of leadership.
#[derive(Debug)]
pub struct LeaderMetrics {
    /// 1 while this instance leads, else 0.
    pub is_leader: &'static str,
    /// The age of the term, observed at each acknowledged beat and at its end.
    pub leader_age: &'static str,
    /// Rounds of the leader's loop.
    pub loop_iterations: &'static str,
    /// Rows past their retention that this instance removed.
    pub pruned: &'static str,
    /// Rows that were refused by themselves and left out for a while, each time.
    pub left_out: &'static str,
    /// Batches that were not finished, by `reason`.
    pub skip: &'static str,
    /// The reasons besides those below.
    pub skip_reasons: &'static [&'static str],
}

impl LeaderMetrics {
    /// The reason when the lease had run out by this process's own clock.
    pub const LEASE_EXPIRED: &'static str = "lease_expired";
    /// The reason when an operator revoked the term.
    pub const LEASE_REVOKED: &'static str = "lease_revoked";
    /// The reason when somebody else holds the lease, or it is gone.
    pub const LEASE_LOST: &'static str = "lease_lost";
    /// The reason when a resource has admitted a later term.
    pub const FENCE_REFUSED: &'static str = "fence_refused";

    /// Describes the metrics and shows them from the start, at zero: an alert on a missing series says nothing.
    pub fn start(&self) {
        describe_gauge!(self.is_leader, "1 while this instance leads, else 0");
        describe_histogram!(
            self.leader_age,
            "age of the term in seconds, at each acknowledged beat and at its end"
        );
        describe_counter!(self.loop_iterations, "rounds of the leader's loop");
        describe_counter!(self.pruned, "rows past their retention that this instance removed");
        describe_counter!(self.left_out, "times that a bad row was left out for a while");
        describe_counter!(self.skip, "batches that were not finished, by reason");
        gauge!(self.is_leader).set(0);
        [self.loop_iterations, self.pruned, self.left_out]
            .into_iter()
            .for_each(|name| counter!(name).increment(0));
        let common = [Self::LEASE_EXPIRED, Self::LEASE_REVOKED, Self::LEASE_LOST, Self::FENCE_REFUSED];
        for reason in common.iter().chain(self.skip_reasons) {
            counter!(self.skip, "reason" => *reason).increment(0);
        }
    }

    /// Derives the gauge, the histogram and the takeovers from the elector's events, until they end. Sets `eligible`
    /// once the lease store has answered.
    ///
    /// A lease's first term, and one that follows this process's own, are no takeovers.
    pub(crate) async fn follow<E>(
        &self,
        events: impl Stream<Item = Result<LeaseEvent, E>>,
        eligible: Arc<AtomicBool>,
    ) {
        let observe_age = |began: &Instant| histogram!(self.leader_age).record(began.elapsed());
        describe_counter!(TAKEOVERS, "terms of the lease that began here after another process's");
        let takeovers = |lease: &LeaseName| counter!(TAKEOVERS, "lease" => lease.to_string());
        let (mut began, mut own) = (None::<Instant>, 0);
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            // A reader that fell behind goes on with the events that follow.
            let Ok(event) = event else { continue };
            match event.kind {
                EventKind::Connected { .. } => {
                    eligible.store(true, Ordering::Relaxed);
                    // A counter that first appears at 1 has not increased.
                    takeovers(&event.lease).increment(0);
                }
                EventKind::Acquired { term, .. } => {
                    takeovers(&event.lease).increment(u64::from(term.epoch != own + 1));
                    own = term.epoch;
                    began = Some(Instant::now());
                    gauge!(self.is_leader).set(1);
                }
                EventKind::Renewed(_) => began.iter().for_each(observe_age),
                EventKind::Ended { .. } => {
                    began.take().iter().for_each(observe_age);
                    gauge!(self.is_leader).set(0);
                }
                _ => {}
            }
        }
        gauge!(self.is_leader).set(0);
    }
}
