//! The lines that the chart's NOTES print, and those that docs/operating.md has for pods, run in the pods by the pods'
//! own accounts.

use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::pods;
use super::site::Site;
use super::{NAMESPACE, RELEASE};
use crate::drill::report::DrillReport;

const PAGE: &str = include_str!("../../../docs/operating.md");
const KUBERNETES: &str = include_str!("../../../docs/kubernetes.md");
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Runs every line that the present release's NOTES print, but those that change it: they are [`changing`]'s.
pub(super) async fn notes(site: &Site, report: &DrillReport, mode: &str) -> anyhow::Result<()> {
    let lines: Vec<_> = printed(site).await?.into_iter().filter(|line| !changes(line)).collect();
    for line in &lines {
        note(site, line).await.with_context(|| format!("NOTES say {line:?}"))?;
    }
    report.check(
        format!("mode {mode}: the lines of NOTES run, by the pods' own accounts"),
        lines.len() >= 4,
        lines.join("; "),
    );
    Ok(())
}

/// Runs the one line of the present NOTES that begins so, with these words in place of its placeholders.
pub(super) async fn changing(site: &Site, begins: &str, words: &[(&str, &str)]) -> anyhow::Result<()> {
    let lines = printed(site).await?;
    let line = lines.iter().find(|line| line.starts_with(begins) && changes(line));
    let line = line.with_context(|| format!("NOTES say {lines:?}"))?;
    let filled = words.iter().fold(line.clone(), |line, (placeholder, word)| line.replace(placeholder, word));
    let args = filled.strip_prefix("helm ").context("helm changes releases")?.split_whitespace();
    site.helm(&args.chain(["--wait"]).collect::<Vec<_>>()).await.map(drop)
}

async fn printed(site: &Site) -> anyhow::Result<Vec<String>> {
    let notes = site.helm(&["get", "notes", RELEASE]).await?;
    let lines = notes.lines().filter(|line| line.starts_with("  helm ") || line.starts_with("  kubectl "));
    Ok(lines.map(|line| line.split(" # ").next().unwrap_or(line).trim().to_owned()).collect())
}

fn changes(line: &str) -> bool {
    line.starts_with("helm upgrade ") || line.starts_with("helm uninstall ")
}

async fn note(site: &Site, line: &str) -> anyhow::Result<()> {
    let (line, inside) = line.split_once(" -- ").map_or((line, None), |(line, inside)| (line, Some(inside)));
    let words: Vec<_> = line.split_whitespace().collect();
    match (&words[..], inside) {
        (["helm", "test", RELEASE, "-n", NAMESPACE], None) => site.helm(&["test", RELEASE]).await.map(drop),
        (["kubectl", "exec", "-n", NAMESPACE, workload], Some(inside)) => {
            let role = workload.strip_prefix(&format!("deploy/{RELEASE}-leasehold-"));
            succeeds(site, role.with_context(|| format!("there is no {workload}"))?, inside).await
        }
        (["kubectl", "get", "pods", "-n", NAMESPACE, "-l", selector], None) => {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}");
            let pods = site.cluster.access().request("GET", &path, None).await?;
            ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() >= 8), "it shows {pods}");
            Ok(())
        }
        (["kubectl", "get" | "describe", kind, "-n", NAMESPACE, names @ ..], None) if !names.is_empty() => {
            let group = match *kind {
                "leases" => "/apis/coordination.k8s.io/v1",
                "daemonset" => "/apis/apps/v1",
                _ => bail!("nobody knows here where {kind} are"),
            };
            for name in names {
                let path = format!("{group}/namespaces/{NAMESPACE}/{}s/{name}", kind.trim_end_matches('s'));
                site.cluster.access().request("GET", &path, None).await?;
            }
            Ok(())
        }
        _ => bail!("nobody knows here how to run it"),
    }
}

/// Runs every `leasehold` line of the runbook in the pods that it names, and so each verb that an operator needs there.
pub(super) async fn runbook(site: &Site, report: &DrillReport, mode: &str) -> anyhow::Result<()> {
    let mut lines: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    lines.retain(|line| line.starts_with("leasehold "));
    lines.sort_by_key(|line| ["step-down", "revoke"].iter().any(|ends| line.contains(ends)));
    lines.dedup();
    if mode == "k8s" {
        // There a pod may touch its own lease and make none, as the page says.
        let named = |line: &str| {
            ["-forwarder", "-sweeper", "plan", "config", "worker"].iter().any(|it| line.contains(it))
        };
        lines.retain(|line| named(line) && !line.starts_with("leasehold init"));
        for line in KUBERNETES.lines() {
            let inside = line.strip_prefix("$ kubectl -n prod exec deploy/leasehold-");
            lines.extend(inside.and_then(|line| Some(line.split_once(" -- ")?.1)));
        }
    }
    let mark = site.ledger("SELECT epoch FROM leasehold_fence_marks WHERE resource = 'audit_outbox'").await?;
    for line in &lines {
        let role = match () {
            () if line.starts_with("leasehold worker ledger") => "ledger",
            () if line.contains("ttl-sweeper") => "ttl-sweeper",
            () => "outbox-forwarder",
        };
        let command = line.replace("\"$MARK\"", &mark.to_string());
        if line.starts_with("leasehold watch") {
            let until = format!("timeout --preserve-status --signal=INT 2 {command}");
            succeeds(site, role, &until).await?;
        } else if mode == "k8s" && line.starts_with("leasehold history") {
            let (code, said) = execute(site, role, &command).await?;
            ensure!(code == 1 && said.contains("keeps no history"), "{line:?} ended with {code}: {said}");
        } else {
            succeeds(site, role, &command).await?;
        }
    }
    report.check(
        format!("mode {mode}: the runbook's lines run in the pods, by the pods' own accounts"),
        lines.len() > 10,
        format!("{} lines", lines.len()),
    );
    Ok(())
}

async fn succeeds(site: &Site, role: &str, line: &str) -> anyhow::Result<()> {
    let (code, said) = execute(site, role, line).await?;
    ensure!(code == 0, "{line:?} in a pod of {role} ended with {code}: {said}");
    Ok(())
}

/// Runs a line in a pod of the role that is ready. The operator's shell takes the line apart, not the pod's, since the
/// image has none.
async fn execute(site: &Site, role: &str, line: &str) -> anyhow::Result<(i32, String)> {
    let pods = pods::all(&site.client).await?;
    let pod = pods.into_iter().find(|pod| pod.role == role && pod.ready && !pod.terminating);
    let pod = pod.with_context(|| format!("no pod of {role} is ready"))?;
    let executed = site.cluster.exec(NAMESPACE, &pod.name, &["sh", "-c", line], LIMIT).await?;
    Ok((executed.code, executed.lines.join("\n")))
}
