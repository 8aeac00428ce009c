//! Releases that must not replace a good one.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::ListParams;

use super::NAMESPACE;
use super::RELEASE;
use super::leaders::{FORWARDER, one_leader};
use super::pods;
use super::site::Site;
use crate::drill::report::DrillReport;

/// Another mode without `migrateFrom`: by an upgrade, whose hook refuses it, and without hooks, as `kubectl apply` does it.
pub(super) async fn change_the_mode_directly(
    site: &Site,
    report: &DrillReport,
    good: &[&str],
) -> anyhow::Result<()> {
    let before = one_leader(site, FORWARDER, None).await?;
    let etcd = [good, &["leaderElection.mode=etcd"]].concat();
    let refused = site.ask_for("upgrade", &etcd, &[]).await;
    let told = refused_change(site, |pod| pod.contains("-init-upgrade-")).await?;
    let still = one_leader(site, FORWARDER, None).await?;
    report.check(
        "a direct change of mode: the upgrade fails, its hook says what to do, and the old leader leads on",
        refused.is_err() && still.name == before.name,
        told,
    );
    site.ask_for("upgrade", &etcd, &["--no-hooks"]).await?;
    let told = refused_change(site, |pod| pod.contains(FORWARDER)).await?;
    let still = one_leader(site, FORWARDER, None).await?;
    report.check(
        "without hooks: the new pods say what to do, and the old leader leads on",
        still.name == before.name,
        told,
    );
    site.release("upgrade", good).await?;
    site.until("all is ready", || pods::settled(&site.client)).await.map(drop)
}

/// The line by which such a pod refuses a direct change.
async fn refused_change(site: &Site, which: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    let pods: Api<PodObject> = Api::namespaced(site.client.clone(), NAMESPACE);
    let which = &which;
    site.until("a pod refuses the change", || async {
        let pods = pods.list(&ListParams::default().labels(&pods::selector())).await?;
        let names = pods.items.into_iter().filter_map(|pod| pod.metadata.name).filter(|name| which(name));
        let logs: Vec<_> = names.map(|name| site.cluster.logs(NAMESPACE, &name)).collect();
        let lines = logs.iter().flat_map(|log| log.lines());
        let told = lines.into_iter().find(|line| line.contains("set leaderElection.migrateFrom to postgres"));
        told.map(str::to_owned).context("none does")
    })
    .await
}

/// A release whose forwarders can't start, and the rollback to the one before it.
pub(super) async fn roll_back(site: &Site, report: &DrillReport, good: &[&str]) -> anyhow::Result<()> {
    let before = one_leader(site, FORWARDER, None).await?;
    let nonsense = "outboxForwarder.env.LEASEHOLD_OUTBOX_FORWARDER_BATCH_SIZE=nonsense";
    site.ask_for("upgrade", &[good, &[nonsense]].concat(), &[]).await?;
    let told = site
        .until("the new pod's log says what is wrong", || async {
            let pods = pods::all(&site.client).await?;
            let logs = pods.iter().map(|pod| site.cluster.logs(NAMESPACE, &pod.name));
            let told = logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>());
            told.into_iter().find(|line| line.contains("nonsense")).context("none does")
        })
        .await?;
    let still = one_leader(site, FORWARDER, None).await?;
    report.check(
        "a release that can't start says why, and the old leader keeps the lease",
        still.name == before.name,
        format!("{} leads; {told}", still.name),
    );
    site.helm(&["rollback", RELEASE, "--wait"]).await?;
    let pods = site.until("all is ready", || pods::settled(&site.client)).await?;
    report.check("helm rollback: all are ready", pods == 11, format!("{pods} pods"));
    Ok(())
}
