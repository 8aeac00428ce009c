//! The life of a release.

use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

use super::audit::{self, Granted};
use super::leaders::{FORWARDER, SWEEPER, one_leader};
use super::pods;
use super::site::{NODES, PATIENCE, Site, TTL};
use super::{NAMESPACE, RELEASE};
use super::{inside, refused, runbook, strict};
use crate::drill::load::{Client, Load};
use crate::drill::report::DrillReport;

const POSTGRES: &str = "leaderElection.mode=postgres";

/// The time in all that a rollout of three forwarders may leave without a leader.
const GAPS_MS: i64 = 1000;

pub(super) async fn play(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    let mut granted = Granted::default();

    site.release("install", &["leaderElection.mode=k8s"]).await?;
    granted.add(&rendered(site).await?)?;
    let pods = site.until("all is ready", || pods::settled(&site.client)).await?;
    report.check("helm install: two of each are ready", pods == 10, format!("{pods} pods"));
    site.set_budget().await?;
    let sockets = NODES.map(|node| site.cluster.host_path(node, "/run/spendguard/sidecar.sock"));
    let load = Load::start(sockets.into_iter().collect::<Result<_, _>>()?, Client::default());
    let both =
        async { tokio::try_join!(live(site, report, &load, &mut granted), strict::play(site, report)) };
    if let Err(why) = both.await {
        if load.has_failed() {
            load.finish().await?;
        }
        return Err(why);
    }

    let asked = load.finish().await?;
    report.step(format!("the load ends, after {asked} reservations"));
    let books = site.books();
    books.close(PATIENCE, report).await;
    books.balance(asked, report).await?;
    books.delivered(report).await?;
    books.in_term(report).await?;
    uninstall(site, report).await?;

    let events = site.cluster.control_plane().audit().events()?;
    let (denied, unused) = (audit::denied(&events), granted.unused(&events));
    let first = |list: &[String]| list.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    report.check(
        "the API server refused no request of the pods",
        denied.is_empty() && audit::requests(&events) > 0,
        format!("{} of {} requests {}", denied.len(), audit::requests(&events), first(&denied)),
    );
    report.check(
        "every verb that the chart grants is used",
        unused.is_empty() && granted.count() > 0,
        format!("{} of {} were not {}", unused.len(), granted.count(), first(&unused)),
    );
    Ok(())
}

/// The part of its life that is under load.
async fn live(site: &Site, report: &DrillReport, load: &Load, granted: &mut Granted) -> anyhow::Result<()> {
    works(site, report, load, "k8s").await?;
    by_hand(site, report, load, "k8s").await?;

    for [from, to] in [["k8s", "etcd"], ["etcd", "postgres"]] {
        let began = site.canonical(NOW_MS).await?;
        let chart = site.chart.display().to_string();
        inside::changing(site, "helm upgrade", &[("CHART", &chart), ("NEW", to)]).await?;
        granted.add(&rendered(site).await?)?;
        site.until("the move's pods run", || pods::settled(&site.client)).await?;
        works(site, report, load, to).await?;
        let quiet: i64 = longest_pause(site, began).await?;
        report.step(format!("{from} → {to} under load: at most {quiet} ms without a new row"));
        by_hand(site, report, load, to).await?;
    }
    site.release("upgrade", &[POSTGRES]).await?;
    site.until("all is ready", || pods::settled(&site.client)).await?;
    runbook::play(site, report).await?;
    works(site, report, load, "postgres").await?;
    let three = [POSTGRES, "outboxForwarder.replicas=3"];
    site.release("upgrade", &three).await?;
    site.until("all is ready", || pods::settled(&site.client)).await?;
    works(site, report, load, "postgres").await?;

    delete_the_leader(site, report).await?;
    restart_everything(site, report).await?;
    works(site, report, load, "postgres").await?;
    lose_a_node(site, report, load).await?;
    works(site, report, load, "postgres").await?;
    refused::change_the_mode_directly(site, report, &three).await?;
    refused::roll_back(site, report, &three).await?;
    works(site, report, load, "postgres").await
}

/// What an operator does by NOTES and by the runbook.
async fn by_hand(site: &Site, report: &DrillReport, load: &Load, mode: &str) -> anyhow::Result<()> {
    inside::notes(site, report, mode).await?;
    inside::runbook(site, report, mode).await?;
    // It ends by a revocation, which is waited out.
    works(site, report, load, mode).await
}

/// The manifests that helm has applied, hooks included.
async fn rendered(site: &Site) -> anyhow::Result<String> {
    let (manifest, hooks) =
        (site.helm(&["get", "manifest", RELEASE]).await?, site.helm(&["get", "hooks", RELEASE]).await?);
    Ok(format!("{manifest}\n{hooks}"))
}

/// Exactly one leader of each lease, and rows flow.
async fn works(site: &Site, report: &DrillReport, load: &Load, mode: &str) -> anyhow::Result<()> {
    let forwarder = one_leader(site, FORWARDER, None).await?;
    let sweeper = one_leader(site, SWEEPER, None).await?;
    flow(site, load).await?;
    report.check(
        format!("mode {mode}: exactly one leader of each lease, and rows flow"),
        true, // otherwise the run has ended with an error
        format!("{} and {}", forwarder.name, sweeper.name),
    );
    Ok(())
}

/// New reservations are committed, and new rows arrive.
async fn flow(site: &Site, load: &Load) -> anyhow::Result<()> {
    let committed = load.committed.load(Ordering::Relaxed);
    let arrived = site.canonical(ARRIVED).await?;
    site.until("rows flow", || async {
        let (now, there) = (load.committed.load(Ordering::Relaxed), site.canonical(ARRIVED).await?);
        ensure!(now > committed + 10, "{} commits", now - committed);
        ensure!(there > arrived + 10, "{} rows", there - arrived);
        anyhow::Ok(())
    })
    .await
}

async fn delete_the_leader(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    let leader = one_leader(site, FORWARDER, None).await?;
    let began = lease_int(site, HISTORY_END).await?;
    let objects: Api<PodObject> = Api::namespaced(site.client.clone(), NAMESPACE);
    objects.delete(&leader.name, &DeleteParams::default()).await?;
    site.until("all is ready", || pods::settled(&site.client)).await?;
    let next = one_leader(site, FORWARDER, None).await?;
    let (gap, handed) = (gaps_ms(site, began).await?, next.name != leader.name);
    report.check(
        "kubectl delete pod of the leader: another leads immediately",
        handed && gap <= GAPS_MS && clean(site, began).await?,
        format!("{} after {}, {gap} ms without a leader", next.name, leader.name),
    );
    Ok(())
}

async fn restart_everything(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    let began = lease_int(site, HISTORY_END).await?;
    let ours = ListParams::default().labels(&pods::selector());
    let deployments: Api<Deployment> = Api::namespaced(site.client.clone(), NAMESPACE);
    for deployment in deployments.list(&ours).await? {
        deployments.restart(&deployment.metadata.name.unwrap_or_default()).await?;
    }
    let sets: Api<DaemonSet> = Api::namespaced(site.client.clone(), NAMESPACE);
    for set in sets.list(&ours).await? {
        sets.restart(&set.metadata.name.unwrap_or_default()).await?;
    }
    let pods = site.until("every pod is new and ready", || pods::settled(&site.client)).await?;
    let (gap, terms) = (gaps_ms(site, began).await?, taken_over(site, began).await?);
    report.check(
        format!(
            "kubectl rollout restart of all {pods} pods: gaps without a forwarder sum to {GAPS_MS} ms at most"
        ),
        gap <= GAPS_MS && terms > 0 && clean(site, began).await?,
        format!("{gap} ms in {terms} changes of leader"),
    );
    Ok(())
}

async fn lose_a_node(site: &Site, report: &DrillReport, load: &Load) -> anyhow::Result<()> {
    let leader = one_leader(site, FORWARDER, None).await?;
    let (lost, began, lost_at) = (leader.node.as_str(), Instant::now(), lease_int(site, NOW_MS).await?);
    site.cluster.lose_node(lost).await?;
    let next = one_leader(site, FORWARDER, Some(lost)).await?;
    // Measured by the store, so that the time to ask all pods isn't counted.
    let sql = "SELECT (extract(epoch FROM max(event_at)) * 1000)::bigint - $1 FROM coordination_lease_history
        WHERE lease_name = 'outbox-forwarder' AND event_type = 'taken_over'";
    let took = since(site, sql, lost_at).await?;
    report.check(
        format!("{lost} is lost, with the leader: another leads within ttl + 3 s"),
        took > 0 && took <= (TTL + TTL).as_millis() as i64,
        format!("{} on {} after {took} ms", next.name, next.node),
    );
    flow(site, load).await?;
    let away = async || {
        let lost_pods = pods::all(&site.client).await?;
        let left = lost_pods.iter().filter(|pod| pod.node == lost && !pod.terminating);
        // A DaemonSet's pod stays bound to its node.
        let left = left.filter(|pod| pod.role != "sidecar").count();
        ensure!(left == 0, "{left} pods are still bound to {lost}");
        pods::deployed(&site.client).await
    };
    site.until("its pods are replaced elsewhere", away).await?;
    let took = began.elapsed().as_millis();
    report.step(format!("all its pods are replaced on the other node, {took} ms after it was lost"));
    site.cluster.restore_node(lost)?;
    site.until("the node is back", || pods::settled(&site.client)).await?;
    report.step(format!("{lost} is back, and its sidecar"));
    Ok(())
}

async fn uninstall(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    inside::changing(site, "helm uninstall", &[]).await?;
    let left = async || {
        let mut left = Vec::new();
        for kind in [
            "api/v1 pods",
            "api/v1 services",
            "api/v1 serviceaccounts",
            "api/v1 persistentvolumeclaims",
            "apis/apps/v1 deployments",
            "apis/apps/v1 daemonsets",
            "apis/batch/v1 jobs",
            "apis/policy/v1 poddisruptionbudgets",
            "apis/rbac.authorization.k8s.io/v1 roles",
            "apis/rbac.authorization.k8s.io/v1 rolebindings",
        ] {
            let (group, kind) = kind.split_once(' ').context("two words")?;
            let path = format!("/{group}/namespaces/{NAMESPACE}/{kind}?labelSelector={}", pods::selector());
            let list = site.cluster.access().request("GET", &path, None).await?;
            left.extend(
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|item| format!("{kind}/{}", item["metadata"]["name"].as_str().unwrap_or_default())),
            );
        }
        ensure!(left.is_empty(), "{} are left", left.join(", "));
        anyhow::Ok(())
    };
    let gone = site.until("everything is gone", left).await;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let leases = site.cluster.access().request("GET", &path, None).await?;
    let leases = leases["items"].as_array().map_or(0, Vec::len);
    let kept = lease_int(site, "SELECT count(*) FROM coordination_leases").await?;
    let free = lease_int(site, "SELECT count(*) FROM coordination_leases WHERE grant_id IS NULL").await?;
    report.check(
        "helm uninstall leaves only the registers, and every leader released its lease",
        gone.is_ok() && leases == 2 && kept == 2 && free == 2,
        format!(
            "{leases} Leases, {kept} rows in Postgres, {free} of them free{}",
            gone.err().map(|why| format!("; {why:#}")).unwrap_or_default()
        ),
    );
    Ok(())
}

async fn lease_int(site: &Site, sql: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sql).fetch_one(&site.leases).await?)
}

async fn since(site: &Site, sql: &'static str, began: i64) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(sql).bind(began).fetch_one(&site.leases).await?)
}

/// The total time without a holder since then.
async fn gaps_ms(site: &Site, began: i64) -> anyhow::Result<i64> {
    let sql = "SELECT coalesce(sum(extract(epoch FROM next - event_at) * 1000), 0)::bigint FROM (
        SELECT history_id, event_type, event_at, lead(event_at) OVER (ORDER BY history_id) AS next
        FROM coordination_lease_history WHERE lease_name = 'outbox-forwarder') AS rows
        WHERE history_id > $1 AND event_type = 'released'";
    since(site, sql, began).await
}

async fn taken_over(site: &Site, began: i64) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM coordination_lease_history
        WHERE lease_name = 'outbox-forwarder' AND event_type = 'taken_over' AND history_id > $1";
    since(site, sql, began).await
}

/// True if each term since then was released before the next one began.
async fn clean(site: &Site, began: i64) -> anyhow::Result<bool> {
    let sql = "SELECT count(*) FROM (
        SELECT history_id, event_type, lag(event_type) OVER (ORDER BY history_id) AS before
        FROM coordination_lease_history WHERE lease_name = 'outbox-forwarder') AS rows
        WHERE history_id > $1 AND event_type IN ('taken_over', 'acquired') AND before <> 'released'";
    Ok(since(site, sql, began).await? == 0)
}

async fn longest_pause(site: &Site, began: i64) -> anyhow::Result<i64> {
    let sql = "SELECT coalesce(max(gap), 0)::bigint FROM (
        SELECT extract(epoch FROM ingested_at - lag(ingested_at) OVER (ORDER BY ingest_id)) * 1000 AS gap, ingested_at
        FROM canonical_events) AS gaps WHERE ingested_at > to_timestamp($1::float8 / 1000)";
    Ok(sqlx::query_scalar(sql).bind(began as f64).fetch_one(site.books().canonical).await?)
}

const NOW_MS: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const ARRIVED: &str = "SELECT count(*) FROM canonical_events";
const HISTORY_END: &str = "SELECT coalesce(max(history_id), 0) FROM coordination_lease_history";
