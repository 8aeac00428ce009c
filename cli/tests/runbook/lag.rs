//! Rows or reservations wait.

use sqlx::{Connection, PgConnection, Row};

use crate::page::Section;
use crate::site::{Site, Worker};

/// Makes `count` reservations whose time is over, with their rows in the outbox.
async fn reserve(site: &Site, count: i32) -> anyhow::Result<()> {
    site.sh("leasehold worker ledger --add-scope seed acme").await?.ok();
    sqlx::query(
        "WITH term AS MATERIALIZED (SELECT * FROM ledger_fencing_scope('acquire', 'seed', 'acme', 'seeder', NULL,
                NULL, 3600, true, NULL, gen_random_uuid(), NULL))
         SELECT count(made.o_reservation) FROM term, generate_series(1, $1) AS n, LATERAL ledger_reserve('seed', 'acme',
                'seeder', o_epoch, o_grant, o_epoch || '-' || n, '', gen_random_uuid(), 1, 'EUR', 600) AS made",
    )
    .bind(count)
    .execute(&site.ledger)
    .await?;
    sqlx::raw_sql("UPDATE reservations SET ttl_expires_at = clock_timestamp() - interval '2 minutes'")
        .execute(&site.ledger)
        .await?;
    sqlx::raw_sql("UPDATE audit_outbox SET created_at = clock_timestamp() - interval '2 minutes'")
        .execute(&site.ledger)
        .await?;
    Ok(())
}

/// Somebody began a transaction, locked every row of a table, and went home.
async fn forgotten(site: &Site, table: &str) -> anyhow::Result<(PgConnection, i32)> {
    let options = site.ledger.connect_options();
    let mut session = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; SELECT FROM {table} FOR UPDATE")))
        .execute(&mut session)
        .await?;
    let pid = sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut session).await?.get(0);
    Ok((session, pid))
}

/// The look finds the session, by what it says, and ending it ends the lag.
async fn end_it(
    site: &mut Site,
    page: &mut Section,
    look: &str,
    pid: i32,
    (worker, oldest): (&Worker, &str),
) -> anyhow::Result<()> {
    let shown = site.shows(look, "idle in transaction").await?;
    let first = shown.ok().lines().find(|line| line.contains("idle in transaction")).unwrap_or_default();
    let named = first.split('|').next().unwrap_or_default().trim();
    assert_eq!(named, pid.to_string(), "{shown:?}");
    worker.comes_to(oldest, |age| age > 60.0).await?;
    site.knows("PID", named);
    let ended = site.sh(page.next("psql")).await?;
    assert!(ended.ok().lines().any(|line| line.trim() == "t"), "the server ended it: {ended:?}");
    worker.comes_to(oldest, |age| age < 60.0).await
}

#[tokio::test]
async fn a_forgotten_transaction_that_holds_the_outbox_is_seen_and_ended() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    reserve(&site, 20).await?;
    let (_session, pid) = forgotten(&site, "audit_outbox").await?;
    let ingest = site.worker("canonical-ingest", "ingest", &[]).await?;
    let url = format!("http://{}/v1/events", ingest.address);
    let forwarder =
        site.worker("outbox-forwarder", "a", &[("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", &url)]).await?;
    site.knows("FORWARDER", &forwarder.address);
    site.knows("INGEST", &ingest.address);
    let refused = "spendguard_outbox_forwarder_skip_total{reason=\"outbox_unavailable\"}";
    forwarder.comes_to(refused, |times| times >= 1.0).await?;

    let mut page = Section::of("SpendGuardOutboxLagHigh");
    let look = page.next("curl");
    let oldest = "spendguard_outbox_pending_oldest_age_seconds";
    site.shows(look, oldest)
        .await?
        .says(&["reason=\"outbox_unavailable\"", "reason=\"ingest_unavailable\"} 0"]);
    let sessions = page.next("psql");
    site.sh(page.next("curl")).await?.says(&["ok"]);
    end_it(&mut site, &mut page, sessions, pid, (&forwarder, oldest)).await?;
    page.end();
    Ok(())
}

#[tokio::test]
async fn a_forgotten_transaction_that_holds_the_reservations_is_seen_and_ended() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    reserve(&site, 20).await?;
    let (_session, pid) = forgotten(&site, "budgets").await?;
    let sweeper = site.worker("ttl-sweeper", "a", &[]).await?;
    site.knows("SWEEPER", &sweeper.address);
    let refused = "spendguard_ttl_sweeper_skip_total{reason=\"ledger_unavailable\"}";
    sweeper.comes_to(refused, |times| times >= 1.0).await?;

    let mut page = Section::of("SpendGuardSweepLagHigh");
    let oldest = "spendguard_reservations_expired_oldest_age_seconds";
    site.shows(page.next("curl"), oldest)
        .await?
        .says(&["reason=\"ledger_unavailable\"", "reason=\"fence_refused\"} 0"]);
    let sessions = page.next("psql");
    end_it(&mut site, &mut page, sessions, pid, (&sweeper, oldest)).await?;
    page.end();
    Ok(())
}

/// Lets nobody into the ledger's database any more, and ends the sessions there; or lets everybody in again.
async fn let_in(site: &Site, all: bool) -> anyhow::Result<()> {
    let closed = if all {
        ""
    } else {
        " -c \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger'\""
    };
    let line = format!(
        "psql \"$SPENDGUARD_LEADER_POSTGRES_URL\" -c 'ALTER DATABASE ledger ALLOW_CONNECTIONS {all}'{closed}"
    );
    site.sh(&line).await?.ok();
    Ok(())
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_makes_ages_unknown_until_it_does() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let nowhere = [("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "http://127.0.0.1:1/v1/events")];
    let forwarder = site.worker("outbox-forwarder", "a", &nowhere).await?;
    let sweeper = site.worker("ttl-sweeper", "a", &[]).await?;
    site.knows("FORWARDER", &forwarder.address);
    site.knows("SWEEPER", &sweeper.address);
    let workers = [
        (&forwarder, "spendguard_outbox_pending_oldest_age_seconds"),
        (&sweeper, "spendguard_reservations_expired_oldest_age_seconds"),
    ];
    let mut pages = [Section::of("SpendGuardOutboxAgeUnknown"), Section::of("SpendGuardSweepAgeUnknown")];
    for (worker, oldest) in workers {
        worker.comes_to(oldest, |age| age == 0.0).await?;
    }
    let_in(&site, false).await?;
    for ((worker, oldest), page) in workers.into_iter().zip(&mut pages) {
        worker.comes_to(oldest, f64::is_nan).await?;
        site.sh(page.next("curl")).await?.says(&[&format!("{oldest} NaN")]);
        site.shows(page.next("curl"), "can't be used").await?;
    }
    let look = site.sh(pages[0].next("psql")).await?;
    look.has(&["not currently accepting connections"]);
    let_in(&site, true).await?;
    for (worker, oldest) in workers {
        worker.comes_to(oldest, |age| age == 0.0).await?;
    }
    site.sh(look.line()).await?.says(&["is_a_standby", "| off"]);
    pages.into_iter().for_each(Section::end);
    Ok(())
}
