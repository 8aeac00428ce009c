//! The lines of docs/operating.md that change a release, as they stand there.

use anyhow::{Context, ensure};

use super::pods;
use super::stage::{RELEASE, Stage};
use crate::drill::story::Story;

const PAGE: &str = include_str!("../../../docs/operating.md");

pub(super) async fn play(stage: &Stage, story: &Story) -> anyhow::Result<()> {
    let lines: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("$ helm ")).collect();
    let [longer_ttl, own_scopes] = lines[..] else { anyhow::bail!("the page has other lines: {lines:?}") };

    run(stage, longer_ttl).await?;
    let longer =
        "SELECT count(*) FROM coordination_leases WHERE expires_at - renewed_at > interval '25 seconds'";
    let both = async || {
        let held: i64 = sqlx::query_scalar(longer).fetch_one(&stage.leases).await?;
        ensure!(held == 2, "{held} leases last longer");
        anyhow::Ok(held)
    };
    let held = stage.until("both leases last longer", both).await?;
    story.check("runbook: a longer ttl by helm upgrade", held == 2, longer_ttl);

    run(stage, own_scopes).await?;
    let own = "SELECT count(*) FROM fencing_scopes WHERE fencing_scope_id LIKE '%/%' AND ttl_expires_at > clock_timestamp()";
    let each = async || {
        let held = stage.ledger(own).await?;
        ensure!(held == 2, "{held} sidecars hold a scope of their own");
        anyhow::Ok(held)
    };
    let held = stage.until("each sidecar holds a scope of its own", each).await?;
    story.check("runbook: a scope for each node by helm upgrade", held == 2, own_scopes);
    Ok(())
}

/// Runs such a line on our release, and waits until all is ready.
async fn run(stage: &Stage, line: &str) -> anyhow::Result<()> {
    let theirs = line.strip_prefix("upgrade leasehold deploy/helm/leasehold -n prod ");
    let more = theirs.with_context(|| format!("the page says {line:?}"))?.split_whitespace();
    let chart = stage.chart.display().to_string();
    let args: Vec<_> = ["upgrade", RELEASE, &chart].into_iter().chain(more).chain(["--wait"]).collect();
    stage.helm(&args).await?;
    stage.until("all is ready", || pods::settled(&stage.client)).await?;
    Ok(())
}
