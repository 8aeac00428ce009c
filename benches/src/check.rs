//! `is_leader_now()` against a bare read of the same clock.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use lease_core::{BackendError, Elector, Leadership, LeaseBackend, LeaseName, Memory, WorkloadId};
use rustix::time::{ClockId, clock_gettime};

use crate::paired::{BarResult, Samples, judge};

const TURNS: usize = 400;
const CALLS: u32 = 20_000;

#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The duration of one of `CALLS` calls; the same frame around both sides.
#[inline(always)]
fn per_call(mut call: impl FnMut()) -> std::time::Duration {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed() / CALLS
}

pub(crate) async fn is_leader_now() -> anyhow::Result<BarResult> {
    let connector = || {
        let backend: Arc<dyn LeaseBackend> = Arc::new(Memory::new());
        std::future::ready(Ok::<_, BackendError>(backend))
    };
    let (samples, taken) = std::sync::mpsc::channel();
    let work = move |leadership: Leadership| {
        let samples = samples.clone();
        async move {
            let (mut ours, mut reference) = (Samples::default(), Samples::default());
            for _ in 0..TURNS {
                reference.add(per_call(|| {
                    black_box(clock_gettime(CLOCK));
                }));
                ours.add(per_call(|| {
                    black_box(leadership.is_leader_now());
                }));
            }
            anyhow::ensure!(leadership.is_leader_now(), "the lease was held all along");
            samples.send((ours, reference))?;
            Ok(())
        }
    };
    Elector::builder(connector, LeaseName::new("bench")?, WorkloadId::new("bench")?)
        .build()?
        .run_until(std::future::pending(), work)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let (ours, reference) = taken.recv()?;
    Ok(judge("is_leader_now() / bare BOOTTIME read", 1.2, &ours, &reference))
}
