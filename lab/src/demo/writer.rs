//! A service that writes audit events into the outbox while all else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lease_core::WallTime;
use lease_spendguard::cloudevents::EventKey;
use lease_spendguard::outbox::{self, NewEvent, Outbox};
use lease_worker_common::database::Database;
use serde_json::value::{RawValue, to_raw_value};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Batches in a second.
const TICKS: u64 = 10;

/// The one producer, at a steady pace.
pub(crate) struct DemoWriter {
    task: JoinHandle<anyhow::Result<u64>>,
    enough: Arc<AtomicBool>,
}

impl DemoWriter {
    /// Writes `rate` rows a second, until it is told that it may stop and has written `least` rows.
    pub(crate) async fn start(
        outbox_url: &str,
        count: Arc<AtomicU64>,
        least: u64,
        rate: u64,
    ) -> anyhow::Result<Self> {
        let database: Database = outbox_url.parse().map_err(anyhow::Error::msg)?;
        let outbox = outbox::open(&database, false, Duration::from_secs(10)).await?;
        let enough = Arc::new(AtomicBool::new(false));
        let may_stop = enough.clone();
        let task = tokio::spawn(async move { write(outbox, count, least, rate, may_stop).await });
        Ok(Self { task, enough })
    }

    /// Lets it finish; returns how many rows it wrote.
    pub(crate) async fn finish(self) -> anyhow::Result<u64> {
        self.enough.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn write(
    outbox: Arc<dyn Outbox>,
    count: Arc<AtomicU64>,
    least: u64,
    rate: u64,
    may_stop: Arc<AtomicBool>,
) -> anyhow::Result<u64> {
    let mut written = 0;
    let mut tick = interval(Duration::from_millis(1_000 / TICKS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while written < least || !may_stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let events: Vec<_> = (written..written + rate / TICKS).map(event).collect::<Result<_, _>>()?;
        outbox.append(&events).await?;
        written += events.len() as u64;
        count.store(written, Ordering::Relaxed);
    }
    Ok(written)
}

fn event(number: u64) -> anyhow::Result<NewEvent> {
    let payload: Box<RawValue> = to_raw_value(&serde_json::json!({
        "decision": if number.is_multiple_of(7) { "deny" } else { "allow" },
        "amount_minor": number % 10_000,
        "currency": "EUR",
        "reservation_id": format!("r-{number:08}"),
    }))?;
    let key = EventKey {
        tenant_id: "acme".into(),
        workload_instance_id: "ledger-0".into(),
        producer_sequence: number as i64,
    };
    Ok(NewEvent { key, event_time: WallTime::now().0, fencing_epoch: 1, payload })
}
