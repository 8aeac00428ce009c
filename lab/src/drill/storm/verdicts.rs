//! Checks that only the storm has: a budget that is watched all the time, and the leases' history.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::installation::{Installation, LIMITS};
use crate::drill::report::DrillReport;

/// Looks all the time whether a budget is overdrawn.
pub(super) struct Overdraft {
    /// The most that was ever reserved and committed in the small budget.
    most: Arc<AtomicI64>,
    looks: Arc<AtomicU64>,
    _watching: AbortOnDropHandle<()>,
}

impl Overdraft {
    pub(super) fn watch(pool: PgPool) -> Self {
        let (most, looks) = (Arc::<AtomicI64>::default(), Arc::<AtomicU64>::default());
        let (greatest, counted) = (most.clone(), looks.clone());
        let watching = tokio::spawn(async move {
            // From the reservations themselves; what the budget's row says is judged at the end.
            let sql = "SELECT coalesce(sum(amount_minor), 0)::bigint FROM reservations
                       WHERE currency = 'USD' AND current_state <> 'released'";
            loop {
                if let Ok(now) = sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await {
                    greatest.fetch_max(now, Ordering::Relaxed);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { most, looks, _watching: AbortOnDropHandle::new(watching) }
    }

    /// The most that was seen, and how often somebody looked.
    pub(super) fn end(self) -> (i64, u64) {
        (self.most.load(Ordering::Relaxed), self.looks.load(Ordering::Relaxed))
    }
}

/// Judges what the books alone don't show.
pub(super) async fn judge(
    installation: &Installation,
    (most, looks): (i64, u64),
    refused: u64,
    report: &DrillReport,
) -> anyhow::Result<()> {
    let (_, limit) = LIMITS[1];
    report.check(
        "no budget was ever overdrawn",
        most <= limit && looks > 0,
        format!("at most {most} of {limit}, in {looks} samples"),
    );
    report.check("requests exceeded a budget, and were refused", refused > 0, format!("{refused} times"));
    let never = installation.books().int(NEVER_LED).await?;
    report.check(
        "every row of a sweeper has an epoch in which it led",
        never == 0,
        format!("{never} do not"),
    );
    Ok(())
}

const NEVER_LED: &str = "SELECT count(*) FROM reservation_events AS written
    WHERE action = 'expire' AND NOT EXISTS (
        SELECT FROM coordination_lease_history AS term
        WHERE term.lease_name = 'ttl-sweeper' AND term.event_type IN ('acquired', 'taken_over')
            AND term.epoch = written.fencing_epoch AND term.holder_workload_id = written.owner_instance_id)";
