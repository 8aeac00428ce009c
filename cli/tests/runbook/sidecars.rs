//! Sidecars that don't get their scope, or get it too often.

use lease_testbed::Signal;

use crate::page::Section;
use crate::site::{LIMIT, Site, Worker, field};

const EPOCH: &str = "spendguard_sidecar_fencing_epoch";
const TTL: (&str, &str) = ("SPENDGUARD_SIDECAR_FENCING_TTL_SECONDS", "3");
pub(crate) const LONG: (&str, &str) = ("SPENDGUARD_SIDECAR_FENCING_TTL_SECONDS", "3600");

/// A ledger, which the sidecars that follow know.
pub(crate) async fn ledger(site: &mut Site) -> anyhow::Result<Worker> {
    let ledger = site.worker("ledger", "ledger", &[("LEASEHOLD_LEDGER_LISTEN", "127.0.0.1:0")]).await?;
    let line = ledger.process.wait_for_line("ledger started", LIMIT).await?;
    site.knows("LEASEHOLD_SIDECAR_LEDGER_URL", format!("http://{}", field(&line, "grpc")?));
    site.knows("LEASEHOLD_SIDECAR_FENCING_SCOPE_ID", "payments");
    site.knows("LEASEHOLD_SIDECAR_TENANT_ID", "acme");
    site.knows("LEASEHOLD_SIDECAR_STANDBY", "true");
    site.knows("LEDGER", &ledger.address);
    Ok(ledger)
}

pub(crate) async fn sidecar(site: &Site, name: &str, ttl: (&str, &str)) -> anyhow::Result<Worker> {
    let socket = site.path(&format!("{name}.sock"));
    site.worker("sidecar", name, &[ttl, ("LEASEHOLD_SIDECAR_SOCKET_PATH", &socket)]).await
}

#[tokio::test]
async fn a_scope_that_is_missing_or_held_by_a_dead_one_is_seen_and_had_at_once() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let _ledger = ledger(&mut site).await?;
    let mut page = Section::of("SpendGuardSidecarNotAcquiring");
    let [its_page, ledgers_page, scopes, add] =
        ["curl", "curl", "psql", "leasehold worker ledger --add-scope"].map(|begins| page.next(begins));
    let ends = sidecar(&site, "a", LONG).await?;
    assert_ne!(ends.process.wait(LIMIT).await?.code(), Some(0));
    ends.process.wait_for_line("S4: acquire fencing lease at startup", LIMIT).await?;
    site.sh(ledgers_page).await?.says(&["ok"]);
    site.sh(scopes).await?.says(&["(0 rows)"]);
    site.sh(add).await?.says(&["payments"]);
    let holder = sidecar(&site, "a", LONG).await?;
    holder.comes_to(EPOCH, |epoch| epoch > 0.0).await?;

    // It dies, and its term would be live for an hour.
    holder.process.signal(Signal::KILL)?;
    holder.process.wait(LIMIT).await?;
    let next = sidecar(&site, "b", LONG).await?;
    next.process.wait_for_line("standing by scope=\"payments\" holder=\"a\"", LIMIT).await?;
    site.knows("SIDECAR", &next.address);
    site.sh(its_page).await?.says(&["the fencing lease is not held"]);
    site.sh(scopes).await?.says(&["payments", "| a "]);
    assert_eq!(next.metric(EPOCH).await?, 0.0, "what the alert asks for");
    site.sh(page.next("leasehold worker ledger --revoke-scope")).await?.says(&["a's term was ended"]);
    next.comes_to(EPOCH, |epoch| epoch > 0.0).await?;
    page.end();

    let both = "leasehold worker ledger --revoke-scope payments acme --revoke-scope refunds acme";
    let second_is_unknown = site.sh(both).await?;
    second_is_unknown.has(&[
        "b's term was ended",
        "error: ",
        "there is no fencing scope refunds of tenant acme",
    ]);
    Ok(())
}

#[tokio::test]
async fn who_takes_a_scope_from_whom_is_seen() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let _ledger = ledger(&mut site).await?;
    site.sh("leasehold worker ledger --add-scope payments acme").await?.ok();
    let mut holder = sidecar(&site, "pod-0", TTL).await?;
    holder.comes_to(EPOCH, |epoch| epoch > 0.0).await?;
    for name in ["pod-1", "pod-2"] {
        let next = sidecar(&site, name, TTL).await?;
        holder.process.signal(Signal::KILL)?;
        next.comes_to(EPOCH, |epoch| epoch > 0.0).await?;
        holder = next;
    }
    let mut page = Section::of("SpendGuardSidecarTakeoverStorm");
    let shown = site.sh(page.next("psql")).await?;
    shown.says(&["taken_from", "taken_by"]);
    let promotes: Vec<_> = shown.ok().lines().filter(|line| line.contains("| promote")).collect();
    assert_eq!(promotes.len(), 2, "{shown:?}");
    assert!(promotes[0].contains("| pod-1 ") && promotes[0].contains("| pod-2 "), "{shown:?}");
    page.end();
    Ok(())
}
