//! The lease store is restored from a backup under running forwarders.

use lease_testbed::{Etcd, EtcdOptions, Signal, wait_for};

use crate::leaders::{FORWARDS, NOWHERE, REFUSED, ROUNDS, term, two};
use crate::page::Section;
use crate::site::{LIMIT, Site, Worker, one_leads};

const ROLE: &str = "outbox-forwarder";

/// The backup knows one term, which has ended. Then one of two forwarders leads.
pub(crate) async fn backed_up(site: &Site, page: &mut Section, tool: &str) -> anyhow::Result<[Worker; 2]> {
    term(site, "before").await?;
    site.sh(page.next(tool)).await?.ok();
    let forwarders = two(site, ROLE, &[NOWHERE]).await?;
    one_leads(&forwarders, FORWARDS).await?;
    Ok(forwarders)
}

/// Those that ran go on, and one that starts later leads after them in a term that no fence refuses.
async fn goes_on(site: &Site, mut page: Section, forwarders: [Worker; 2]) -> anyhow::Result<()> {
    site.sh(page.next("leasehold restored")).await?.says(&[ROLE]);
    page.end();
    leads_above(site, forwarders).await
}

/// The same, once they were told.
pub(crate) async fn leads_above(site: &Site, forwarders: [Worker; 2]) -> anyhow::Result<()> {
    // The term that the store forgot goes on until its holder's next beat. On a slow machine the fleet has waited out
    // the restore by itself before anybody was told, and that term keeps its epoch: what follows it counts.
    wait_for("epochs above all that may have been lost", LIMIT, async || {
        let status = site.sh("leasehold status outbox-forwarder --json").await?;
        let status: serde_json::Value = serde_json::from_str(status.ok())?;
        let of = |field: &str| status["record"][field].as_u64().unwrap_or_default();
        let above = of("epoch").max(of("epochs_above"));
        anyhow::ensure!(status["state"] == "held" && above % (1 << 46) > 1 << 35, "{status}");
        anyhow::Ok(())
    })
    .await?;
    let leader = &forwarders[one_leads(&forwarders, FORWARDS).await?];
    let rounds = leader.metric(ROUNDS).await?;
    leader.comes_to(ROUNDS, |now| now >= rounds + 5.0).await?;
    let late = site.worker(ROLE, "late", &[NOWHERE]).await?;
    for forwarder in &forwarders {
        forwarder.process.signal(Signal::TERM)?;
        assert_eq!(forwarder.process.wait(LIMIT).await?.code(), Some(0));
    }
    late.comes_to(ROUNDS, |rounds| rounds >= 5.0).await?;
    assert_eq!(late.metric(REFUSED).await?, 0.0, "its first term exceeds what was admitted");
    Ok(())
}

#[tokio::test]
async fn a_postgres_store_is_restored_under_running_forwarders() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let mut page = Section::of("Restoring Postgres");
    let forwarders = backed_up(&site, &mut page, "pg_dump").await?;
    site.sh(page.next("pg_restore")).await?.ok();
    goes_on(&site, page, forwarders).await
}

#[tokio::test]
async fn a_sqlite_store_is_restored_under_running_forwarders() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    site.knows("SPENDGUARD_LEADER_SQLITE_PATH", site.path("leases.sqlite"));
    site.has_mode("sqlite").await?;
    let mut page = Section::of("Restoring SQLite");
    let forwarders = backed_up(&site, &mut page, "sqlite3").await?;
    site.sh(page.next("sqlite3")).await?.ok();
    goes_on(&site, page, forwarders).await
}

#[tokio::test]
async fn an_etcd_store_is_restored_under_running_forwarders() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    let mut site = Site::new().await?;
    let tools = etcd.etcdctl();
    site.finds(tools.parent().expect("a program is in a folder"));
    site.knows("SPENDGUARD_LEADER_ETCD_ENDPOINTS", etcd.endpoints().join(","));
    let (member, peer) = (etcd.members()[0].name(), etcd.peer_url(0));
    site.knows("MEMBER", member);
    site.knows("PEER_URL", peer);
    let data = site.path("restored");
    site.knows("DATA", &data);
    site.has_mode("etcd").await?;
    let mut page = Section::of("Restoring etcd");
    let forwarders = backed_up(&site, &mut page, "etcdctl").await?;
    let restore = page.next("etcdutl");
    site.sh(restore).await?.ok();
    let token = restore.split("--initial-cluster-token=").nth(1).expect("the page gives it another token");
    etcd.start_on(&[data.into()], token.trim()).await?;
    goes_on(&site, page, forwarders).await
}
