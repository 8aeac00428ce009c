//! A leader that is stopped past its ttl and woken: it knows before it acts, and what it sent before is refused.

use lease_testbed::{Process, Proxy, wait_until};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::stage::{LIMIT, Pools, SHORT, Stage};

const WARNING: &str = "lease expired locally; skip batch until renewed";
const REFUSED: &str = "a late write was refused by the fence";

/// It must not give its call up before it has heard the answer, however long the successor takes.
const PATIENT: [&str; 4] = ["--ttl", "2s", "--call-timeout", "120s"];

/// The number of the first line that has `text`.
fn line(process: &Process, text: &str) -> Option<usize> {
    process.lines().iter().position(|line| line.contains(text))
}

async fn rows_of_a_later_term(stage: &Stage, epoch: i64) -> anyhow::Result<()> {
    wait_until("a later term has marked rows", LIMIT, || async {
        let newest = stage.outbox_int("SELECT coalesce(max(forwarded_epoch), 0) FROM audit_outbox").await;
        newest.is_ok_and(|newest| newest > epoch)
    })
    .await
}

/// Its request is held on its way to the ingest until the successor has acted there.
async fn a_late_request_is_refused_by_the_ingest(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    let old = stage.forwarder_with("old", &proxy.addr().to_string(), &stage.outbox, &PATIENT).await?;
    old.leads().await?;
    let epoch = old.epoch()?;
    let mut hold = proxy.hold(|request| request.contains("POST /v1/events"));
    stage.append(0, 300).await?;
    hold.held().await?;
    old.process.pause().await?;
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &SHORT).await?;
    new.leads().await?;
    rows_of_a_later_term(&stage, epoch).await?;
    hold.release();
    old.process.resume()?;

    let refusal = old.process.wait_for_line(REFUSED, LIMIT).await?;
    assert!(refusal.contains("FENCING_EPOCH_STALE") && refusal.contains("canonical-ingest"), "{refusal}");
    assert!(line(&old.process, WARNING).is_some_and(|warned| Some(warned) < line(&old.process, REFUSED)));
    let warning = old.process.wait_for_line(WARNING, LIMIT).await?;
    assert!(warning.contains("WARN") && warning.contains("expires_at=20"), "{warning}");
    assert_eq!(old.metric("spendguard_outbox_forwarder_skip_total{reason=\"fence_refused\"}").await?, 1.0);
    assert_eq!(old.metric("spendguard_outbox_forwarder_skip_total{reason=\"lease_expired\"}").await?, 1.0);
    stage.all_arrived(300).await?;
    assert_eq!(stage.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_epoch = 1").await?, 0);

    // It goes on when it leads again.
    new.process.kill().await?;
    stage.append(300, 400).await?;
    stage.all_arrived(400).await?;
    assert!(old.epoch()? > new.epoch()?);
    Ok(())
}

#[tokio::test]
async fn sqlite_a_late_request_is_refused_by_the_ingest() -> anyhow::Result<()> {
    a_late_request_is_refused_by_the_ingest(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_a_late_request_is_refused_by_the_ingest() -> anyhow::Result<()> {
    a_late_request_is_refused_by_the_ingest(Stage::postgres().await?).await
}

/// It is paused after the ingest's answer has been sent, and wakes past its ttl: no write follows its warning.
#[tokio::test]
async fn writes_nothing_after_its_warning() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    let old = stage.forwarder_with("old", &proxy.addr().to_string(), &stage.outbox, &PATIENT).await?;
    old.leads().await?;
    let epoch = old.epoch()?;
    // The events get there; the answer is held up.
    proxy.set_flow(lease_testbed::Direction::ToClient, lease_testbed::Flow::Stall);
    stage.append(0, 300).await?;
    wait_until("the events are ingested", LIMIT, || async {
        stage.canonical_int("SELECT count(*) FROM canonical_events").await.is_ok_and(|count| count == 300)
    })
    .await?;
    old.process.pause().await?;
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &SHORT).await?;
    new.leads().await?;
    rows_of_a_later_term(&stage, epoch).await?;
    proxy.heal();
    old.process.resume()?;
    old.process.wait_for_line(WARNING, LIMIT).await?;
    // It stands by: the term is over, and all that it could have tried has been tried.
    old.process.wait_for_line("standing by", LIMIT).await?;
    assert_eq!(line(&old.process, REFUSED), None, "it tried nothing");
    stage.all_arrived(300).await?;
    assert_eq!(stage.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_epoch = 1").await?, 0);
    assert_eq!(ingest.metric("spendguard_canonical_ingest_events_duplicate_total").await?, 300.0);
    Ok(())
}

/// Its fenced transaction waits for the outbox's lock, past its own check, until the successor has acted.
#[tokio::test]
async fn sqlite_a_late_mark_is_refused_by_the_outbox() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let Pools::Sqlite { outbox, .. } = &stage.pools else { unreachable!("it is SQLite") };
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    let old = stage.forwarder_with("old", &proxy.addr().to_string(), &stage.outbox, &PATIENT).await?;
    old.leads().await?;
    let epoch = old.epoch()?;
    let mut hold = proxy.hold(|request| request.contains("POST /v1/events"));
    stage.append(0, 300).await?;
    hold.held().await?;
    let mut locker = outbox.acquire().await?;
    let lock = SqliteConnection::begin_with(&mut locker, "BEGIN IMMEDIATE").await?;
    hold.release();
    // SQLite's own wait for a lock is a chain of short sleeps: seen from outside, its thread sleeps at the lock.
    wait_until("its mark waits for the lock", LIMIT, || async { waits_for_a_lock(old.process.id()) }).await?;
    old.process.pause().await?;
    lock.rollback().await?;
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &SHORT).await?;
    new.leads().await?;
    rows_of_a_later_term(&stage, epoch).await?;
    old.process.resume()?;
    let refusal = old.process.wait_for_line(REFUSED, LIMIT).await?;
    assert!(refusal.contains("resource=\"outbox\""), "{refusal}");
    assert!(line(&old.process, WARNING).is_some_and(|warned| Some(warned) < line(&old.process, REFUSED)));
    stage.all_arrived(300).await?;
    assert_eq!(stage.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_epoch = 1").await?, 0);
    Ok(())
}

/// Is one of its threads asleep by the clock (`nanosleep`), as SQLite's busy handler is and nothing else of ours?
fn waits_for_a_lock(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.filter_map(Result::ok).any(|thread| {
        let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        // nanosleep and clock_nanosleep, on x86-64 and on arm64.
        call.split(' ').next().is_some_and(|number| ["35", "230", "101", "115"].contains(&number))
    })
}

/// The proxy holds the admission of its transaction until the successor has acted.
#[tokio::test]
async fn postgres_a_late_mark_is_refused_by_the_outbox() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let ingest = stage.ingest().await?;
    let proxy = Proxy::postgres(stage.server.as_ref().expect("it is Postgres").addr())?;
    let old = stage.forwarder_with("old", &ingest.address, &proxy.url(&stage.outbox)?, &SHORT).await?;
    old.leads().await?;
    let epoch = old.epoch()?;
    wait_until("it polls", LIMIT, || async {
        old.metric("spendguard_outbox_forwarder_loop_iterations_total").await.is_ok_and(|n| n >= 2.0)
    })
    .await?;
    // The transaction's first statement: it holds no lock yet, so the successor is not held up.
    let mut hold = proxy.hold(|request| request.sql_contains("leasehold_admit"));
    stage.append(0, 300).await?;
    hold.held().await?;
    old.process.pause().await?;
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &SHORT).await?;
    new.leads().await?;
    rows_of_a_later_term(&stage, epoch).await?;
    hold.release();
    old.process.resume()?;
    wait_until("the old term is over", LIMIT, || async { line(&old.process, "standing by").is_some() })
        .await?;
    assert!(line(&old.process, WARNING).is_some());
    stage.all_arrived(300).await?;
    assert_eq!(stage.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_epoch = 1").await?, 0);
    Ok(())
}

/// The runbook reads `lease expired locally` as a node that stood still.
#[tokio::test]
async fn a_revoked_leader_says_that_it_was_revoked_and_the_standby_by_whom() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let a = stage.forwarder("a", &ingest.address).await?;
    a.leads().await?;
    let b = stage.forwarder("b", &ingest.address).await?;
    b.process.wait_for_line("standing by", LIMIT).await?;
    stage.operator(&["revoke", "outbox-forwarder", "--note", "stuck since 02:40"]).await?;
    let said = a.process.wait_for_line("lease revoked by an operator", LIMIT).await?;
    assert!(said.contains("WARN"), "{said}");
    let told = b.process.wait_for_line("an operator revoked the lease", LIMIT).await?;
    assert!(told.contains("stuck since 02:40") && told.contains("by=") && told.contains("op"), "{told}");
    let told = a.process.wait_for_line("has others come before this workload", LIMIT).await?;
    assert!(told.contains("stuck since 02:40"), "{told}");
    b.leads().await?;
    assert_eq!(line(&a.process, WARNING), None, "its node did not stand still");
    for (reason, count) in [("lease_revoked", 1.0), ("lease_expired", 0.0), ("lease_lost", 0.0)] {
        let name = format!("spendguard_outbox_forwarder_skip_total{{reason=\"{reason}\"}}");
        assert_eq!(a.metric(&name).await?, count, "{reason}");
    }
    Ok(())
}
