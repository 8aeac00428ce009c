//! Whether each role writes, by what it has written.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::drill::report::DrillReport;

/// What shows that a role has written since a time: who, whether in the ledger's database, and when it did first.
const SIGNS: [(&str, bool, &str); 6] = [
    (
        "ledger",
        true,
        "SELECT min(created_at) FROM reservation_events WHERE action = 'reserve' AND created_at > $1",
    ),
    (
        "sweeper",
        true,
        "SELECT min(created_at) FROM reservation_events WHERE action = 'expire' AND created_at > $1",
    ),
    ("forwarder", true, "SELECT min(forwarded_at) FROM audit_outbox WHERE forwarded_at > $1"),
    ("ingest", false, "SELECT min(ingested_at) FROM canonical_events WHERE ingested_at > $1"),
    ("scope", true, "SELECT min(renewed_at) FROM fencing_scopes WHERE renewed_at > $1"),
    // Both leases.
    ("leases", true, "SELECT min(renewed_at) FROM coordination_leases HAVING min(renewed_at) > $1"),
];

/// The databases that everybody should write to by now.
pub(super) struct Writes<'a> {
    pub(super) ledger: &'a PgPool,
    pub(super) canonical: &'a PgPool,
}

impl Writes<'_> {
    /// Checks that each role writes within `limit` from now, and reports when it did.
    pub(super) async fn begin(
        &self,
        to: &str,
        limit: Duration,
        report: &DrillReport,
    ) -> anyhow::Result<bool> {
        let since: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(self.ledger)
            .await?;
        let (began, mut first) = (Instant::now(), [None; SIGNS.len()]);
        // The database's own times are judged, so the look may be late.
        while first.contains(&None) && began.elapsed() < limit + Duration::from_secs(2) {
            for ((_, in_ledger, sign), first) in SIGNS.iter().zip(&mut first) {
                if first.is_none() {
                    *first = self.first(*in_ledger, sign, since).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let soon = |first: &Option<i64>| first.is_some_and(|after| after <= limit.as_millis() as i64);
        let all = first.iter().all(soon);
        let told = SIGNS.iter().zip(&first).map(|((who, ..), first)| match first {
            Some(after) => format!("{who} after {after} ms"),
            None => format!("{who} never"),
        });
        let told: Vec<_> = told.collect();
        report.check(format!("every role writes to {to} within {limit:?}"), all, told.join(", "));
        Ok(all)
    }

    /// Milliseconds from `since` to the first sign.
    async fn first(&self, in_ledger: bool, sign: &str, since: i64) -> anyhow::Result<Option<i64>> {
        let sign = sign.replace("$1", "to_timestamp($1 / 1000.0)");
        let sql = format!("SELECT (extract(epoch FROM ({sign})) * 1000)::bigint - $1");
        let pool = if in_ledger { self.ledger } else { self.canonical };
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(since).fetch_one(pool).await?)
    }
}
