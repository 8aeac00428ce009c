//! Terms that end too often, and times that are chosen.

use lease_testbed::Signal;

use crate::page::Section;
use crate::site::Site;

const LEADS: &str = "spendguard_outbox_forwarder_is_leader";
const TAKEOVERS: &str = "spendguard_lease_takeovers_total{lease=\"outbox-forwarder\"}";

#[tokio::test]
async fn the_history_of_a_flapping_lease_tells_deaths_from_clean_stops() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let nowhere = [("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "http://127.0.0.1:1/v1/events")];
    let mut leader = site.worker("outbox-forwarder", "pod-0", &nowhere).await?;
    leader.comes_to(LEADS, |value| value == 1.0).await?;
    for (name, end) in [("pod-1", Signal::KILL), ("pod-2", Signal::TERM)] {
        let next = site.worker("outbox-forwarder", name, &nowhere).await?;
        leader.process.signal(end)?;
        next.comes_to(LEADS, |value| value == 1.0).await?;
        assert_eq!(next.metric(TAKEOVERS).await?, 1.0, "what the alert counts");
        leader = next;
    }
    let mut page = Section::of("SpendGuardLeaseFlapping");
    let history = site.sh(page.next("leasehold history")).await?;
    let events: Vec<_> = history.ok().lines().collect();
    let with = |name: &str, event: &str| {
        events.iter().position(|line| line.contains(name) && line.contains(event)).unwrap_or(usize::MAX)
    };
    assert!(
        with("pod-1", "taken_over") < events.len() && with("pod-2", "taken_over") < events.len(),
        "{history:?}"
    );
    assert_eq!(with("pod-0", "released"), usize::MAX, "it was killed: {history:?}");
    assert!(with("pod-1", "released") < events.len(), "it was stopped: {history:?}");
    site.sh(page.next("leasehold plan")).await?.says(&["outage of the store that is tolerated"]);
    page.end();

    let mut page = Section::of("Sizing ttl, renew and retry");
    site.sh(page.next("leasehold plan")).await?.ok();
    page.end();
    Ok(())
}
