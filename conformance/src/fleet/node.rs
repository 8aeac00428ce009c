//! One elector of a simulated fleet, and its settings.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lease_core::internal::StepFn;
use lease_core::internal::step::{CallId, Rules, State};
use lease_core::internal::writes::Candidate;
use lease_core::{Hints, LeaseBackend, Term};

use super::mishap::{FleetSetting, Mishap};

const TTL: Duration = Duration::from_millis(3_000);
pub(super) const MAX_TTL: Duration = Duration::from_millis(4_000);

#[derive(Default)]
pub(super) struct FleetNode {
    /// `None` while it is dead, or has stopped.
    pub(super) state: Option<State>,
    pub(super) step: Option<StepFn>,
    pub(super) actor: String,
    pub(super) incarnation: u64,
    pub(super) store: Option<Arc<dyn LeaseBackend>>,
    pub(super) hints: Option<Hints>,
    /// The calls of this incarnation that wait for a reply.
    pub(super) calls: BTreeSet<CallId>,
    /// Each step sets the alarm anew; an older one rings for nobody.
    pub(super) alarm: u64,
    pub(super) working: Option<Term>,
    pub(super) return_delay: u64,
    pub(super) paused_until: u64,
    pub(super) requests_lost_until: u64,
    pub(super) replies_lost_until: u64,
    /// What comes over it when it next sends an acquisition.
    pub(super) when_acquiring: Option<Mishap>,
    /// Messages take up to so many milliseconds more, until then.
    pub(super) slow: (u64, u64),
}

pub(super) fn rules(node: usize, setting: &FleetSetting) -> Rules {
    Rules {
        who: Candidate {
            holder: if setting.one_name { "node".to_owned() } else { format!("node-{node}") },
            region: String::new(),
            ttl: if node.is_multiple_of(2) { TTL } else { MAX_TTL },
            max_ttl: MAX_TTL,
            preemptible: setting.preemptible,
            work: None,
        },
        renew_every: Duration::from_millis(1_000),
        retry_every: Duration::from_millis(200),
        stop_grace: Duration::from_millis(600),
        max_silence: None,
        creates_registers: !setting.loses_registers,
    }
}
