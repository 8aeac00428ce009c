//! What a database does to programs that go on: each turn, and what everybody says of it.

use std::time::Duration;

use anyhow::ensure;
use lease_testbed::{Postgres, SmallDisk, wait_for};
use serde_json::json;

use super::SOON;
use crate::drill::load::{self, TENANT};
use crate::drill::report::DrillReport;
use crate::drill::storm::installation::{Installation, ROLE};
use crate::drill::storm::worker::StormWorker;

/// Ages that are read from a database.
pub(super) const AGES: [&str; 2] =
    ["spendguard_outbox_pending_oldest_age_seconds", "spendguard_reservations_expired_oldest_age_seconds"];

/// The rights without which nobody does its work.
const NEEDED: [(&str, &str); 3] = [
    ("ledger", "UPDATE ON audit_outbox"),
    ("ledger", "INSERT ON reservation_events"),
    ("canonical", "INSERT ON canonical_events"),
];

pub(super) struct Turns<'a> {
    pub(super) installation: &'a Installation,
    pub(super) report: &'a DrillReport,
}

impl Turns<'_> {
    /// Those who ask a database, each of whom says what is wrong with it; not the sidecars, who ask the ledger.
    fn workers(&self) -> impl Iterator<Item = &StormWorker> {
        self.installation.on_databases()
    }

    pub(super) async fn are_ready(&self, check: &str, limit: Duration) {
        let ready = wait_for("everybody is ready", limit, || async {
            for worker in self.workers() {
                let (status, why) = worker.page("/readyz").await?;
                ensure!(status == 200, "{}: {}", worker.workload(), why.trim());
            }
            anyhow::Ok(())
        })
        .await;
        let all = self.workers().count();
        self.report.check(check, ready.is_ok(), told(ready.map(|()| format!("{all} are"))));
    }

    /// Each says why, by this word, and none shows one of the ages `unknown`.
    pub(super) async fn nobody_is_ready(&self, check: &str, word: &str, unknown: &[&str]) -> bool {
        let unready = wait_for("nobody is ready", SOON, || async {
            for worker in self.workers() {
                let (status, why) = worker.page("/readyz").await?;
                let says = status == 503 && why.contains(word);
                ensure!(says, "{} says {status} {}", worker.workload(), why.trim());
                let (_, metrics) = worker.page("/metrics").await?;
                let shown = metrics.lines().find(|line| {
                    unknown.iter().any(|age| line.starts_with(&format!("{age} "))) && !line.ends_with(" NaN")
                });
                ensure!(shown.is_none(), "{} shows {}", worker.workload(), shown.unwrap_or_default());
            }
            anyhow::Ok(())
        })
        .await;
        let (all, none) = (self.workers().count(), unready.is_ok());
        self.report.check(check, none, told(unready.map(|()| format!("all {all} say so"))));
        none
    }

    /// Defaults that other programs may need, for all sessions from now on.
    pub(super) async fn defaults_of_the_role(&self, server: &Postgres) -> anyhow::Result<()> {
        server
            .psql(&format!(
                "ALTER ROLE {ROLE} SET statement_timeout = '1ms';
                 ALTER ROLE {ROLE} SET default_transaction_isolation = serializable"
            ))
            .await?;
        for worker in self.installation.workers() {
            worker.cut().await;
        }
        self.report
            .step("the role's defaults: statement_timeout 1 ms, serializable; all connections are cut");
        Ok(())
    }

    /// Everybody's, until everybody has said so.
    pub(super) async fn rights_are_taken(&self, server: &Postgres) -> anyhow::Result<()> {
        for (database, right) in NEEDED {
            server.psql_in(database, &format!("REVOKE {right} FROM {ROLE}")).await?;
        }
        self.report.step("the role has lost rights on the outbox, the ledger and the canonical store");
        self.nobody_is_ready("without its rights nobody is ready", "permission denied", &AGES).await;
        for (database, right) in NEEDED {
            server.psql_in(database, &format!("GRANT {right} TO {ROLE}")).await?;
        }
        self.report.step("it has them back");
        Ok(())
    }

    /// As a newer version's migration does it.
    pub(super) async fn functions_are_changed(&self, server: &Postgres) -> anyhow::Result<()> {
        let change = "DO $$ DECLARE v_name text; v_made text;
            BEGIN
                FOREACH v_name IN ARRAY ARRAY['ledger_scope_view', 'ledger_put_scope', 'ledger_reserve'] LOOP
                    v_made := pg_get_functiondef(v_name::regproc);
                    EXECUTE format('DROP FUNCTION %I', v_name);
                    EXECUTE replace(v_made, 'OUT o_code text', 'OUT o_more text, OUT o_code text');
                END LOOP;
            END $$";
        server.psql_in("ledger", change).await?;
        self.report
            .step("the ledger's functions have another result, under the plans of everybody's connections");
        Ok(())
    }

    /// As an operator does it who sees that the disk will not last.
    pub(super) async fn databases_move(&self, server: &Postgres, disk: &SmallDisk) -> anyhow::Result<()> {
        server.create_tablespace("small", &disk.path().join("tablespace")).await?;
        for database in ["ledger", "canonical"] {
            server.move_database(database, "small").await?;
        }
        self.report.step("both databases are in a tablespace on a small disk, without the server's log");
        Ok(())
    }

    /// By somebody else, until everybody has said so, and a caller has been told.
    pub(super) async fn the_disk_is_full(&self, disk: &SmallDisk) -> anyhow::Result<()> {
        disk.fill()?;
        self.report.step("something else has filled the disk");
        self.nobody_is_ready("on a full disk nobody is ready", "No space left on device", &[]).await;
        // Of the other currency, which nobody else asks for here.
        let request = json!({"tenant": TENANT, "amount_minor": 1, "currency": "USD", "ttl_seconds": 1,
            "idempotency_key": "on-a-full-disk"});
        let refused = wait_for("a request hears of the full disk", SOON, || async {
            let mut last = String::from("no sidecar answers");
            for socket in &self.installation.sockets {
                // A standby has no socket.
                let Ok(answer) = load::send(socket, "/v1/reservations", &request).await else { continue };
                let status = answer.status();
                last = format!("{status} {}", answer.text().await?);
                if status == 503 && last.contains("the disk of the ledger's database is full") {
                    return Ok(last);
                }
            }
            anyhow::bail!("{last}")
        })
        .await;
        self.report.check("a sidecar's client hears that the disk is full", refused.is_ok(), told(refused));
        disk.make_room()?;
        self.report.step("there is room again");
        Ok(())
    }
}

fn told(outcome: anyhow::Result<String>) -> String {
    outcome.unwrap_or_else(|why| format!("{why:#}"))
}
