//! `leasehold-lab e2e`: the chart on a real control plane, with pods that really run, from the installation to the end.

mod audit;
mod inside;
mod leaders;
mod pods;
mod refused;
mod runbook;
mod script;
mod site;
mod strict;

use std::path::PathBuf;
use std::process::ExitCode;

use self::site::Site;
use crate::drill::report::DrillReport;

/// The namespace and the name of the release.
const NAMESPACE: &str = "spendguard";
const RELEASE: &str = "e2e";
/// A user as OpenShift chooses them, a high number in root's group, and the image that has this one.
const ANYBODY: (u32, u32) = (1_000_680_000, 0);
const ANYBODYS_IMAGE: &str = "leasehold-of-anybody";

/// Install the chart on a real control plane and take it through its life, under load
///
/// Modes k8s, etcd, postgres one after the other; a deleted pod, a rollout of everything, a lost node, a release that
/// is rolled back, the end. The pods run as processes of this machine, in a private network; that needs root rights.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The chart's folder
    #[arg(long, default_value = "deploy/helm/leasehold")]
    chart: PathBuf,
    /// Print steps and verdicts as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// Makes what the run needs from outside, and moves the program into its private network.
pub(crate) fn prepare() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Fails with a message before anything is built.
        return lease_node::in_private_network();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(lease_testbed::helm::program())?;
    drop(runtime);
    lease_node::in_private_network()
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = DrillReport::new("end to end", args.json);
    let site = Site::start(&args.chart).await?;
    report.step("a control plane with two nodes, etcd and PostgreSQL are running");
    script::play(&site, &report).await?;
    site.cluster.stop().await;
    Ok(crate::exit_code(report.end(&[])?))
}
