//! The step function that a case's electors run: the real one, or a mutant's.

use std::sync::Arc;
use std::time::Duration;

use lease_core::internal::{StepFn, step};

/// Makes the step function of one actor, given its workload's name and ttl.
pub type Core = Arc<dyn Fn(&str, Duration) -> StepFn + Send + Sync>;

/// The real protocol.
pub fn real_core() -> Core {
    Arc::new(|_, _| Arc::new(step::step))
}
