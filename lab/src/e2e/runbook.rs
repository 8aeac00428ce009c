//! The lines of docs/operating.md that change a release, as they stand there.

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;

use super::pods;
use super::site::Site;
use super::{NAMESPACE, RELEASE};
use crate::drill::report::DrillReport;

const PAGE: &str = include_str!("../../../docs/operating.md");

pub(super) async fn play(site: &Site, report: &DrillReport) -> anyhow::Result<()> {
    let lines: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("$ helm ")).collect();
    let [larger_batch, longer_lease, longer_scope, own_scopes, one_pod] = lines[..] else {
        anyhow::bail!("the page has different helm lines: {lines:?}")
    };

    run(site, larger_batch).await?;
    let deployments: Api<Deployment> = Api::namespaced(site.client.clone(), NAMESPACE);
    let forwarder = deployments.get(&format!("{RELEASE}-leasehold-outbox-forwarder")).await?;
    let template = forwarder.spec.and_then(|spec| spec.template.spec).context("it has a template")?;
    let batches = template.containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
    let batch = batches.filter(|it| it.name.ends_with("BATCH_SIZE")).find_map(|it| it.value);
    report.check("runbook: larger batches by helm upgrade", batch.as_deref() == Some("2000"), larger_batch);

    run(site, longer_lease).await?;
    let longer =
        "SELECT count(*) FROM coordination_leases WHERE expires_at - renewed_at > interval '25 seconds'";
    let both = async || {
        let held: i64 = sqlx::query_scalar(longer).fetch_one(&site.leases).await?;
        ensure!(held == 2, "{held} leases last longer");
        anyhow::Ok(held)
    };
    let held = site.until("both leases last longer", both).await?;
    report.check("runbook: a longer ttl by helm upgrade", held == 2, longer_lease);

    run(site, longer_scope).await?;
    let longer =
        "SELECT count(*) FROM fencing_scopes WHERE ttl_expires_at - renewed_at > interval '50 seconds'";
    let held = site.until("the scope lasts longer", || exactly(site, longer, 1)).await?;
    report.check("runbook: a longer term of a scope by helm upgrade", held == 1, longer_scope);

    run(site, own_scopes).await?;
    let own = "SELECT count(*) FROM fencing_scopes WHERE fencing_scope_id LIKE '%/%' AND ttl_expires_at > clock_timestamp()";
    let held = site.until("each sidecar holds a scope of its own", || exactly(site, own, 2)).await?;
    report.check("runbook: a scope for each node by helm upgrade", held == 2, own_scopes);

    run(site, one_pod).await?;
    let (mut forwarders, mut sweepers) = (0, 0);
    for pod in pods::all(&site.client).await? {
        forwarders += u32::from(pod.role == "outbox-forwarder");
        sweepers += u32::from(pod.role == "ttl-sweeper");
    }
    report.check("runbook: back to one pod by helm upgrade", (forwarders, sweepers) == (1, 1), one_pod);
    Ok(())
}

async fn exactly(site: &Site, sql: &'static str, count: i64) -> anyhow::Result<i64> {
    let now = site.ledger(sql).await?;
    ensure!(now == count, "{now} of {count}");
    Ok(now)
}

/// Runs one of these lines on our release, and waits until all is ready.
async fn run(site: &Site, line: &str) -> anyhow::Result<()> {
    let theirs = line.strip_prefix("upgrade leasehold deploy/helm/leasehold -n prod ");
    let more = theirs.with_context(|| format!("the page says {line:?}"))?.split_whitespace();
    let chart = site.chart.display().to_string();
    let args: Vec<_> = ["upgrade", RELEASE, &chart].into_iter().chain(more).chain(["--wait"]).collect();
    site.helm(&args).await?;
    site.until("all is ready", || pods::settled(&site.client)).await?;
    Ok(())
}
