//! The roles of roles.sql are enough for each worker's work, and for nothing else.

use std::path::Path;

use anyhow::Context;
use lease_testbed::{PostgresServer, Process, wait_until};

use crate::stage::{
    LIMIT, Ledger, SCOPE, Stage, TENANT, attempt, expired, fence, field, outcome, reserve, server, settle,
    start, until_free, won,
};
use crate::sweeping::Sweeper;

/// Runs a script of roles as an operator does, and returns the url of each that it makes.
async fn roles(url: &str, script: &str, names: &[&str]) -> anyhow::Result<Vec<String>> {
    let server = server().await?;
    let database = url.rsplit('/').next().and_then(|rest| rest.split('?').next()).context("a database")?;
    let role = |name: &str| format!("{name}_of_{database}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/spendguard/src").join(script);
    for _ in 0..2 {
        // Twice: it may be run again.
        let mut psql = tokio::process::Command::new("psql");
        psql.args([url, "-q"]);
        for name in names {
            psql.args(["-v", &format!("{name}={}", role(name))]);
        }
        let done = psql.arg("-f").arg(&script).output().await?;
        anyhow::ensure!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
    }
    let mut urls = Vec::new();
    for name in names {
        server.psql(&format!("ALTER ROLE {} PASSWORD 'secret'", role(name))).await?;
        urls.push(server.url_for(database, &role(name), "secret"));
    }
    Ok(urls)
}

async fn may_not(url: &str, forbidden: &[&str]) -> anyhow::Result<()> {
    let role = PostgresServer::named(url).await?;
    for sql in forbidden {
        let refusal = format!("{:#}", role.psql(sql).await.err().with_context(|| format!("done: {sql}"))?);
        anyhow::ensure!(
            refusal.contains("permission denied") || refusal.contains("must be owner"),
            "{sql}: {refusal}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn each_worker_does_its_work_in_its_own_role_and_nothing_else() -> anyhow::Result<()> {
    let (stage, leases) = (Stage::new().await?, tempfile::tempdir()?);
    let canonical = server().await?.create_database("least_canonical").await?;
    let migrated = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear();
    let migrated =
        migrated.args(["worker", "canonical-ingest", "--migrate", "--canonical-url", &canonical]).spawn()?;
    assert_eq!(migrated.wait(LIMIT).await?.code(), Some(0));
    let [ledger_url, sweeper_url, forwarder_url] = <[_; 3]>::try_from(
        roles(&stage.url, "ledger/sql/roles.sql", &["ledger", "sweeper", "forwarder"]).await?,
    )
    .expect("three");
    let ingest_url = roles(&canonical, "canonical/roles.sql", &["ingest"]).await?.remove(0);

    // Two to be released by their time, and an old row to go. Made by the owner.
    expired(&stage, 2).await?;
    sqlx::raw_sql(
        "SELECT ledger_fencing_scope('revoke', 'payments', 'acme', '', NULL, NULL, NULL, true, NULL, NULL, 'for the test');
         UPDATE fencing_scope_events SET created_at = created_at - interval '100 days' WHERE action <> 'revoke'",
    )
    .execute(&stage.pool)
    .await?;

    let ledger = Ledger::start(&ledger_url, &[]).await?;
    let mut client = ledger.client().await?;
    let asked = |instance: &str| {
        let mut asked = attempt(instance);
        // A scope that comes into being when it is asked for.
        asked.fencing_scope_id = format!("{SCOPE}/node-1");
        asked
    };
    won(&client, asked("a")).await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let kept = outcome(client.reserve(reserve(&fence, "k1", 100)).await?)?.expect("there is room");
    let given_back = outcome(client.reserve(reserve(&fence, "k2", 100)).await?)?.expect("there is room");
    outcome(client.commit(settle(&fence, "k3", &kept.reservation_id)).await?)?.expect("it is live");
    outcome(client.release(settle(&fence, "k4", &given_back.reservation_id)).await?)?.expect("it is live");
    let revoked = lease_spendguard::rpc::ledger::v1::RevokeFencingLeaseRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        by: "the test".into(),
    };
    client.revoke_fencing_lease(revoked).await?;
    until_free(&client).await?;

    // In mode disabled, so that each takes its term from the database itself.
    let sweeper = Sweeper::start("s", &sweeper_url, leases.path(), &["--mode", "disabled"]).await?;
    wait_until("the sweeper has swept and pruned", LIMIT, || async {
        let left = "SELECT (SELECT count(*) FROM reservations WHERE current_state = 'reserved')
            + (SELECT count(*) FROM fencing_scope_events WHERE created_at < clock_timestamp() - interval '90 days')";
        stage.int(left).await.is_ok_and(|left| left == 0)
    })
    .await?;
    assert_eq!(sweeper.metric("skip_total{reason=\"ledger_unavailable\"}").await?, 0.0);
    let ingest = ["worker", "canonical-ingest", "--canonical-url", &ingest_url, "--listen", "127.0.0.1:0"];
    let (_ingest, line) = start(&ingest).await?;
    let ingest = format!("http://{}/v1/events", field(&line, "address")?);
    let forwarder = ["worker", "outbox-forwarder", "--mode", "disabled", "--listen", "127.0.0.1:0"];
    let to = ["--outbox-url", &forwarder_url, "--ingest-url", &ingest, "--poll-interval", "50ms"];
    let (_forwarder, _) = start(&[&forwarder[..], &to].concat()).await?;
    wait_until("everything is forwarded", LIMIT, || async {
        stage.int("SELECT count(*) FROM audit_outbox WHERE pending_forward").await.is_ok_and(|left| left == 0)
    })
    .await?;
    let events = server().await?.psql_in("least_canonical", "SELECT count(*) FROM canonical_events").await?;
    assert_eq!(events, "8", "2 were reserved and expired, 2 reserved and settled");
    stage.books_balance().await?;

    may_not(
        &ledger_url,
        &[
            "DELETE FROM reservation_events",
            "UPDATE reservation_events SET amount_minor = 1",
            "DELETE FROM fencing_scope_events",
            "DELETE FROM fencing_scopes",
            "DELETE FROM reservations",
            "UPDATE reservations SET amount_minor = 1",
            "UPDATE budgets SET limit_minor = 1000000",
            "INSERT INTO budgets VALUES ('acme', 'USD', 1)",
            "UPDATE audit_outbox SET pending_forward = false",
            "SELECT payload FROM audit_outbox",
            "DELETE FROM audit_outbox_global_keys",
            "SELECT leasehold_admit('ttl_sweeper', 9, gen_random_uuid())",
            "SELECT leasehold_settle('ttl_sweeper', 'sqlite', 'ttl-sweeper', NULL)",
            "SELECT ledger_prune(1, 1, 1, 9, gen_random_uuid())",
            "SELECT audit_outbox_prune(1, 1)",
            "TRUNCATE reservations",
            "DROP TABLE reservations",
        ],
    )
    .await?;
    may_not(
        &sweeper_url,
        &[
            "DELETE FROM reservation_events",
            "DELETE FROM fencing_scope_events",
            "UPDATE reservations SET ttl_expires_at = clock_timestamp()",
            "INSERT INTO reservations DEFAULT VALUES",
            "UPDATE budgets SET committed_minor = 0",
            "UPDATE fencing_scopes SET current_epoch = 9",
            "UPDATE audit_outbox SET pending_forward = false",
            "UPDATE leasehold_fence_marks SET epoch = 0",
        ],
    )
    .await?;
    may_not(
        &forwarder_url,
        &[
            "UPDATE budgets SET reserved_minor = 0",
            "SELECT * FROM reservations",
            "SELECT * FROM fencing_scopes",
            "UPDATE audit_outbox SET payload = '{}'",
            "INSERT INTO audit_outbox DEFAULT VALUES",
            "DELETE FROM audit_outbox",
            "DELETE FROM audit_outbox_global_keys",
            "UPDATE leasehold_homes SET mode = NULL, lease = NULL",
            "SELECT ledger_prune(1, 1, 1, 9, gen_random_uuid())",
            "UPDATE leasehold_fence_marks SET epoch = 0",
        ],
    )
    .await?;
    may_not(
        &ingest_url,
        &[
            "UPDATE canonical_events SET payload = '{}'",
            "DELETE FROM canonical_events",
            "UPDATE leasehold_fence_marks SET epoch = 0",
        ],
    )
    .await
}
