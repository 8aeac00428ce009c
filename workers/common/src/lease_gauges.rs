//! What this instance knows of its lease, as metrics. Computed at each scrape, from the elector's own clock.

use std::sync::{Arc, OnceLock};

use lease_core::{Elector, LeaseName, LeaseView};
use metrics::{describe_gauge, gauge};

/// The epoch of the lease as this instance saw it last; 0 before it saw one.
const EPOCH: &str = "leasehold_lease_epoch";
/// For how long this instance may still act without another renewal; 0 while it doesn't lead.
const DEADLINE: &str = "leasehold_lease_deadline_seconds";
/// The age of the last beat that this instance knows; NaN before its first look.
const LAST_BEAT_AGE: &str = "leasehold_lease_last_beat_age_seconds";

/// One lease's gauges. Cheap to clone.
#[derive(Clone)]
pub struct LeaseGauges {
    lease: LeaseName,
    view: Arc<OnceLock<LeaseView>>,
}

impl LeaseGauges {
    /// Those of `lease`, of which nothing is known yet.
    pub fn new(lease: LeaseName) -> Self {
        Self { lease, view: Arc::default() }
    }

    /// Shows from now on what this elector sees; of several, the first one.
    pub fn follow(&self, elector: &Elector) {
        let _ = self.view.set(elector.view());
    }

    /// Brings them up to date.
    pub fn show(&self) {
        describe_gauge!(EPOCH, "epoch of the lease as this instance saw it last, 0 before it saw one");
        describe_gauge!(
            DEADLINE,
            "seconds for which this instance may still act without another renewal, 0 while it does not lead"
        );
        describe_gauge!(
            LAST_BEAT_AGE,
            "age in seconds of the last beat: a leader's own last acknowledged one, a standby's last seen one; NaN before the first look"
        );
        let set = |name: &'static str, value: f64| gauge!(name, "lease" => self.lease.to_string()).set(value);
        let view = self.view.get();
        set(EPOCH, view.and_then(LeaseView::epoch).unwrap_or_default() as f64);
        set(DEADLINE, view.map_or(0.0, |view| view.remaining().as_secs_f64()));
        set(LAST_BEAT_AGE, view.and_then(LeaseView::last_beat_age).map_or(f64::NAN, |age| age.as_secs_f64()));
    }
}
