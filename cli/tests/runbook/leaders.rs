//! Nobody leads, or every term is refused.

use anyhow::Context;
use lease_testbed::Signal;

use crate::page::Section;
use crate::site::{LIMIT, Ran, Site, Worker, leaders, one_leads};

pub(crate) const FORWARDS: &str = "spendguard_outbox_forwarder_is_leader";
const SWEEPS: &str = "spendguard_ttl_sweeper_is_leader";
pub(crate) const ROUNDS: &str = "spendguard_outbox_forwarder_loop_iterations_total";
pub(crate) const REFUSED: &str = "spendguard_outbox_forwarder_skip_total{reason=\"fence_refused\"}";
pub(crate) const NOWHERE: (&str, &str) =
    ("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "http://127.0.0.1:1/v1/events");

pub(crate) async fn two(site: &Site, role: &str, more: &[(&str, &str)]) -> anyhow::Result<[Worker; 2]> {
    Ok([site.worker(role, "a", more).await?, site.worker(role, "b", more).await?])
}

#[tokio::test]
async fn a_look_shows_who_holds_and_what_was() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let a = site.worker("outbox-forwarder", "a", &[NOWHERE]).await?;
    a.comes_to(FORWARDS, |value| value == 1.0).await?;
    let _b = site.worker("outbox-forwarder", "b", &[NOWHERE]).await?;
    let mut page = Section::of("First look");
    site.sh(page.next("leasehold status")).await?.says(&["outbox-forwarder", " a"]);
    site.sh(page.next("leasehold history")).await?.says(&["acquired", " a"]);
    let watching = site.spawn(page.next("leasehold watch"))?;
    watching.wait_for_line("outbox-forwarder", LIMIT).await?;
    watching.signal(Signal::INT)?;
    assert_eq!(watching.wait(LIMIT).await?.code(), Some(0));
    site.sh(page.next("psql")).await?.says(&["outbox-forwarder | a ", "| f", "ttl-sweeper"]);
    page.end();
    Ok(())
}

#[tokio::test]
async fn a_stranger_who_holds_the_forwarders_lease_is_seen_and_asked_to_go() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let stranger = site.stranger("outbox-forwarder")?;
    stranger.wait_for_line("held", LIMIT).await?;
    // As an older version's program, which names no work (W-1): else the workers would end.
    site.sh("leasehold forget-work outbox-forwarder").await?.ok();
    let forwarders = two(&site, "outbox-forwarder", &[NOWHERE]).await?;
    site.knows("FORWARDER", &forwarders[0].address);
    let mut page = Section::of("SpendGuardOutboxNoLeader");
    site.sh(page.next("leasehold status")).await?.says(&["stranger"]);
    site.shows(page.next("curl"), "ok").await?;
    site.sh(page.next("curl")).await?.says(&["spendguard_outbox_forwarder_is_leader 0"]);
    page.end();
    assert_eq!(leaders(&forwarders, FORWARDS).await?, 0.0, "the alert's sum");

    site.sh(Section::of("Nobody leads").find("leasehold step-down")).await?.ok();
    one_leads(&forwarders, FORWARDS).await?;
    Ok(())
}

#[tokio::test]
async fn a_sweepers_lost_register_is_seen_and_made_again() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    site.lose_leases().await?;
    let sweepers = two(&site, "ttl-sweeper", &[]).await?;
    site.knows("SWEEPER", &sweepers[0].address);
    let mut page = Section::of("SpendGuardSweeperNoLeader");
    site.sh(page.next("leasehold status")).await?.has(&["there is no such lease in this store"]);
    site.sh(page.next("curl")).await?.ok();
    page.end();
    assert_eq!(leaders(&sweepers, SWEEPS).await?, 0.0, "the alert's sum");

    let init = Section::of("Nobody leads").find("leasehold init").replace("outbox-forwarder", "ttl-sweeper");
    site.sh(&init).await?.ok();
    one_leads(&sweepers, SWEEPS).await?;
    Ok(())
}

#[tokio::test]
async fn each_way_out_of_nobody_leads_brings_another_leader() -> anyhow::Result<()> {
    let site = Site::new().await?;
    site.lose_leases().await?;
    let forwarders = two(&site, "outbox-forwarder", &[NOWHERE]).await?;
    let mut page = Section::of("Nobody leads");
    site.sh(page.next("leasehold config")).await?.says(&["postgres", "6000"]);
    site.sh(page.next("leasehold status")).await?.has(&["there is no such lease in this store"]);
    site.sh(page.next("leasehold init")).await?.ok();
    let first = one_leads(&forwarders, FORWARDS).await?;

    site.sh(page.next("leasehold step-down")).await?.ok();
    let second = 1 - first;
    forwarders[second].comes_to(FORWARDS, |value| value == 1.0).await?;

    forwarders[second].process.signal(Signal::STOP)?;
    site.sh(page.next("leasehold revoke")).await?.says(&["the term was ended"]);
    forwarders[first].comes_to(FORWARDS, |value| value == 1.0).await?;
    page.end();
    Ok(())
}

#[tokio::test]
async fn a_fence_that_is_ahead_of_the_lease_is_seen_and_passed() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    site.sh("leasehold fence raise outbox-forwarder --above 100").await?.ok();
    term(&site, "before").await?;
    site.lose_leases().await?;
    site.sh("leasehold init --new outbox-forwarder").await?.ok();

    let after = site.worker("outbox-forwarder", "after", &[NOWHERE]).await?;
    after.comes_to(REFUSED, |times| times >= 2.0).await?;
    after.process.wait_for_line("FENCING_EPOCH_STALE", LIMIT).await?;
    let mut page = Section::of("Writes are refused as FENCING_EPOCH_STALE");
    let marks = site.sh(page.next("psql")).await?;
    let mark = mark(&marks)?;
    site.knows("MARK", mark);
    site.sh(page.next("leasehold fence raise")).await?.ok();
    page.end();
    let rounds = after.metric(ROUNDS).await?;
    after.comes_to(ROUNDS, |now| now >= rounds + 5.0).await?;
    after.comes_to(FORWARDS, |value| value == 1.0).await
}

#[tokio::test]
async fn a_mark_that_no_lease_issued_is_seen_and_set_back() -> anyhow::Result<()> {
    let site = Site::new().await?;
    term(&site, "before").await?;
    let poison = "SELECT leasehold_admit('audit_outbox', 4611686018427387904, gen_random_uuid())";
    sqlx::query(poison).execute(&site.ledger).await?;
    let after = site.worker("outbox-forwarder", "after", &[NOWHERE]).await?;
    after.comes_to(REFUSED, |times| times >= 2.0).await?;
    let mut page = Section::of("Every term is refused because of an epoch that no lease ever issued");
    site.sh(page.next("export LEASEHOLD_FENCE_DATABASE_URL"))
        .await?
        .says(&["was set back from epoch 4611686018427387904"]);
    page.end();
    let rounds = after.metric(ROUNDS).await?;
    after.comes_to(ROUNDS, |now| now >= rounds + 5.0).await?;
    after.comes_to(FORWARDS, |value| value == 1.0).await?;
    let told = "SELECT count(*) FROM leasehold_fence_lowerings WHERE note = 'INC-78'";
    assert_eq!(sqlx::query_scalar::<_, i64>(told).fetch_one(&site.ledger).await?, 1);
    Ok(())
}

/// The epoch that the outbox has admitted last, as the look shows it.
fn mark(look: &Ran) -> anyhow::Result<String> {
    let row = look.ok().lines().find_map(|line| line.trim().strip_prefix("audit_outbox"));
    let epoch = row.and_then(|row| row.split('|').nth(1)).with_context(|| format!("{look:?}"))?.trim();
    let _: u64 = epoch.parse()?;
    Ok(epoch.to_owned())
}

/// One term of a forwarder, which admits it and ends in order.
pub(crate) async fn term(site: &Site, name: &str) -> anyhow::Result<()> {
    let worker = site.worker("outbox-forwarder", name, &[NOWHERE]).await?;
    worker.comes_to(ROUNDS, |rounds| rounds >= 2.0).await?;
    worker.process.signal(Signal::TERM)?;
    assert_eq!(worker.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}
