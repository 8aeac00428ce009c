//! Checks of the tables of the ledger, the outbox and the canonical store once all is quiet, whatever happened
//! before. All in SQL, on Postgres.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use lease_testbed::wait_for;
use sqlx::PgPool;

use crate::drill::report::DrillReport;

/// The two databases: the ledger's, with the audit outbox, and canonical-ingest's.
pub(crate) struct Books<'a> {
    pub(crate) ledger: &'a PgPool,
    pub(crate) canonical: &'a PgPool,
}

impl Books<'_> {
    /// A number from the ledger's database.
    pub(crate) async fn int(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar::<_, Option<i64>>(sql).fetch_one(self.ledger).await?.unwrap_or(0))
    }

    /// Waits until nothing is left to sweep or to forward.
    pub(crate) async fn close(&self, limit: Duration, report: &DrillReport) {
        let closed = wait_for("everything is swept and forwarded", limit, || async {
            let live = self.int("SELECT count(*) FROM reservations WHERE current_state = 'reserved'").await?;
            let pending = self.int("SELECT count(*) FROM audit_outbox WHERE forwarded_at IS NULL").await?;
            ensure!(live == 0 && pending == 0, "{live} reserved, {pending} pending");
            anyhow::Ok(())
        })
        .await;
        report.check(
            "every reservation is committed or swept, and every row forwarded",
            closed.is_ok(),
            closed.map_or_else(|why| format!("{why:#}"), |()| "none is left".into()),
        );
    }

    /// Money: `asked` reservations were made in EUR, says who made them.
    pub(crate) async fn balance(&self, asked: u64, report: &DrillReport) -> anyhow::Result<()> {
        let state = "SELECT coalesce(sum(amount_minor) FILTER (WHERE current_state = 'committed'), 0)::bigint,
            coalesce(sum(amount_minor) FILTER (WHERE current_state = 'released'), 0)::bigint,
            coalesce(sum(amount_minor) FILTER (WHERE current_state = 'reserved'), 0)::bigint FROM reservations";
        let (committed, released, live): (i64, i64, i64) =
            sqlx::query_as(state).fetch_one(self.ledger).await?;
        // Of the audit trail, which is written beside the reservations.
        let reserved = "SELECT sum(amount_minor)::bigint FROM reservation_events WHERE action = 'reserve'";
        let reserved = self.int(reserved).await?;
        let made = self.int("SELECT count(*) FROM reservations WHERE currency = 'EUR'").await?;
        report.check(
            "reserved = committed + released + live, and no request was executed twice",
            reserved == committed + released + live && made as u64 == asked,
            format!("{reserved} = {committed} + {released} + {live}; {asked} requested, {made} made"),
        );
        let wrong = self.int(WRONG_BOOKS).await?;
        report.check(
            "the budgets' totals agree with the reservations",
            wrong == 0,
            format!("{wrong} differ"),
        );
        Ok(())
    }

    /// Events: none is lost, none is doubled.
    pub(crate) async fn delivered(&self, report: &DrillReport) -> anyhow::Result<()> {
        let commits: Vec<(String, i64)> = sqlx::query_as(COMMITS).fetch_all(self.canonical).await?;
        let mut commits: BTreeMap<_, _> = commits.into_iter().collect();
        let all: Vec<String> = sqlx::query_scalar(COMMITTED).fetch_all(self.ledger).await?;
        let missing = all.iter().filter(|id| commits.remove(*id) != Some(1)).count();
        let extra = commits.len();
        report.check(
            "every committed reservation has exactly one canonical event, and no other has one",
            missing == 0 && extra == 0 && !all.is_empty(),
            format!("{} committed; {missing} have none or several, {extra} events belong to no committed reservation", all.len()),
        );
        let rows = self.int("SELECT count(*) FROM audit_outbox").await?;
        let events = "SELECT count(*) FROM canonical_events";
        let events: i64 = sqlx::query_scalar(events).fetch_one(self.canonical).await?;
        report.check(
            "each audit row is one canonical event",
            rows == events,
            format!("{rows} rows, {events} events"),
        );
        Ok(())
    }

    /// Terms: nothing was written in one that was over.
    pub(crate) async fn in_term(&self, report: &DrillReport) -> anyhow::Result<()> {
        let stale = self.int(OUT_OF_TERM).await?;
        report.check(
            "every row of a sidecar has the epoch that its writer held when it wrote",
            stale == 0,
            format!("{stale} do not"),
        );
        let swept = self.int(SWEPT_BACK).await?;
        report.check("no sweeper wrote a row after one of a later term", swept == 0, format!("{swept} did"));
        let forwarded: i64 = sqlx::query_scalar(FORWARDED_BACK).fetch_one(self.canonical).await?;
        report.check(
            "no forwarder sent an event after one of a later term",
            forwarded == 0,
            format!("{forwarded} did"),
        );
        Ok(())
    }
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
pub(super) const OUT_OF_TERM: &str = "SELECT count(*) FROM reservation_events AS written
    WHERE fencing_scope_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM fencing_scope_events AS begun
        WHERE begun.fencing_scope_id = written.fencing_scope_id AND begun.new_epoch = written.fencing_epoch
            AND begun.owner_instance_id = written.owner_instance_id AND begun.created_at <= written.created_at
            AND NOT EXISTS (
                SELECT FROM fencing_scope_events AS ended
                WHERE ended.fencing_scope_id = begun.fencing_scope_id AND ended.event_id > begun.event_id
                    AND ended.created_at < written.created_at))";

const SWEPT_BACK: &str = "SELECT count(*) FROM (
        SELECT fencing_epoch, lag(fencing_epoch) OVER (ORDER BY event_id) AS before FROM reservation_events
        WHERE action = 'expire') AS rows WHERE fencing_epoch < before";

const FORWARDED_BACK: &str = "SELECT count(*) FROM (
        SELECT forwarder_epoch, lag(forwarder_epoch) OVER (ORDER BY ingest_id) AS before FROM canonical_events)
        AS rows WHERE forwarder_epoch < before";
