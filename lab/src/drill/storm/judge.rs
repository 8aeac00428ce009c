//! The judgement: by SQL, and by the ingest's own store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use lease_testbed::wait_for;
use sqlx::PgPool;
use tokio_util::task::AbortOnDropHandle;

use super::cast::Cast;
use crate::drill::pods::PATIENCE;
use crate::drill::story::Story;

/// Each currency's budget: one that nobody can use up, and one that everybody would overdraw.
pub(super) const LIMITS: [(&str, i64); 2] = [("EUR", 100_000_000), ("USD", 50)];

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

/// Waits until nothing is left to sweep or to forward.
pub(super) async fn drained(cast: &Cast, story: &Story) {
    let drained = wait_for("all is swept and forwarded", PATIENCE * 2, || async {
        let live = cast.int("SELECT count(*) FROM reservations WHERE current_state = 'reserved'").await?;
        let pending = cast.int("SELECT count(*) FROM audit_outbox WHERE forwarded_at IS NULL").await?;
        ensure!(live == 0 && pending == 0, "{live} reserved, {pending} pending");
        anyhow::Ok(())
    })
    .await;
    story.check(
        "every reservation is committed or swept, and every row forwarded",
        drained.is_ok(),
        drained.map_or_else(|why| format!("{why:#}"), |()| "none is left".into()),
    );
}

pub(super) async fn books(
    cast: &Cast,
    spent: u64,
    (most, looks): (i64, u64),
    story: &Story,
) -> anyhow::Result<()> {
    let state = "SELECT coalesce(sum(amount_minor) FILTER (WHERE current_state = 'committed'), 0)::bigint,
        coalesce(sum(amount_minor) FILTER (WHERE current_state = 'released'), 0)::bigint,
        coalesce(sum(amount_minor) FILTER (WHERE current_state = 'reserved'), 0)::bigint FROM reservations";
    let (committed, released, live): (i64, i64, i64) = sqlx::query_as(state).fetch_one(&cast.pool).await?;
    // Of the audit trail, which is written beside the reservations.
    let reserved =
        cast.int("SELECT sum(amount_minor)::bigint FROM reservation_events WHERE action = 'reserve'").await?;
    let asked = cast.int("SELECT count(*) FROM reservations WHERE currency = 'EUR'").await?;
    story.check(
        "reserved = committed + released + live, and no request was done twice",
        reserved == committed + released + live && asked as u64 == spent,
        format!("{reserved} = {committed} + {released} + {live}; {spent} asked for, {asked} made"),
    );
    let (_, limit) = LIMITS[1];
    story.check(
        "no budget was ever overdrawn",
        most <= limit && most > 0,
        format!("at most {most} of {limit}, in {looks} looks"),
    );
    let wrong = cast.int(WRONG_BOOKS).await?;
    story.check("the budgets' rows say what the reservations say", wrong == 0, format!("{wrong} do not"));

    let commits: Vec<(String, i64)> = sqlx::query_as(COMMITS).fetch_all(&cast.canonical).await?;
    let mut commits: BTreeMap<_, _> = commits.into_iter().collect();
    let all: Vec<String> = sqlx::query_scalar(COMMITTED).fetch_all(&cast.pool).await?;
    let missing = all.iter().filter(|id| commits.remove(*id) != Some(1)).count();
    let extra = commits.len();
    story.check(
        "every committed reservation has exactly one canonical event, and no other has one",
        missing == 0 && extra == 0 && !all.is_empty(),
        format!("{} committed; {missing} have none or several, {extra} events are of others", all.len()),
    );
    let rows = cast.int("SELECT count(*) FROM audit_outbox").await?;
    let events: i64 =
        sqlx::query_scalar("SELECT count(*) FROM canonical_events").fetch_one(&cast.canonical).await?;
    story.check(
        "each audit row is one canonical event",
        rows == events,
        format!("{rows} rows, {events} events"),
    );

    let stale = cast.int(OUT_OF_TERM).await?;
    story.check(
        "every row of a sidecar bears an epoch that was its writer's when it was written",
        stale == 0,
        format!("{stale} do not"),
    );
    let (never, back) = (cast.int(NEVER_LED).await?, cast.int(SWEPT_BACK).await?);
    story.check(
        "every row of a sweeper bears an epoch that it led in, and none comes after a later one's",
        never == 0 && back == 0,
        format!("{never} of no term of its own, {back} out of order"),
    );
    let forwarded: i64 = sqlx::query_scalar(FORWARDED_BACK).fetch_one(&cast.canonical).await?;
    story.check(
        "no event came from a forwarder after one of a later term",
        forwarded == 0,
        format!("{forwarded} did"),
    );
    Ok(())
}

const WRONG_BOOKS: &str = "SELECT count(*) FROM budgets LEFT JOIN (
        SELECT tenant_id, currency,
            coalesce(sum(amount_minor) FILTER (WHERE current_state = 'reserved'), 0)::bigint AS reserved,
            coalesce(sum(amount_minor) FILTER (WHERE current_state = 'committed'), 0)::bigint AS committed
        FROM reservations GROUP BY tenant_id, currency) AS sums USING (tenant_id, currency)
    WHERE reserved_minor <> coalesce(reserved, 0) OR committed_minor <> coalesce(committed, 0)";

const COMMITTED: &str = "SELECT reservation_id::text FROM reservations WHERE current_state = 'committed'";

const COMMITS: &str = "SELECT payload ->> 'reservation_id', count(*) FROM canonical_events
    WHERE payload ->> 'action' = 'commit' GROUP BY 1";

/// A write holds its scope's row, so that whatever begins or ends a term is before or after it by the one clock.
const OUT_OF_TERM: &str = "SELECT count(*) FROM reservation_events AS written
    WHERE fencing_scope_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM fencing_scope_events AS begun
        WHERE begun.fencing_scope_id = written.fencing_scope_id AND begun.new_epoch = written.fencing_epoch
            AND begun.owner_instance_id = written.owner_instance_id AND begun.created_at <= written.created_at
            AND NOT EXISTS (
                SELECT FROM fencing_scope_events AS ended
                WHERE ended.fencing_scope_id = begun.fencing_scope_id AND ended.event_id > begun.event_id
                    AND ended.created_at < written.created_at))";

const NEVER_LED: &str = "SELECT count(*) FROM reservation_events AS written
    WHERE action = 'expire' AND NOT EXISTS (
        SELECT FROM coordination_lease_history AS term
        WHERE term.lease_name = 'ttl-sweeper' AND term.event_type IN ('acquired', 'taken_over')
            AND term.epoch = written.fencing_epoch AND term.holder_workload_id = written.owner_instance_id)";

const SWEPT_BACK: &str = "SELECT count(*) FROM (
        SELECT fencing_epoch, lag(fencing_epoch) OVER (ORDER BY event_id) AS before FROM reservation_events
        WHERE action = 'expire') AS rows WHERE fencing_epoch < before";

const FORWARDED_BACK: &str = "SELECT count(*) FROM (
        SELECT forwarder_epoch, lag(forwarder_epoch) OVER (ORDER BY ingest_id) AS before FROM canonical_events)
        AS rows WHERE forwarder_epoch < before";
