//! Every command but the demo.

use std::process::ExitCode;

use clap::Subcommand;

use crate::interrupt::unless_interrupted;
use crate::{
    attack, campaign, chaos, conformance, drill, e2e, failover, handover, restores, roll, status, testbed,
    torture, upgrade,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Other {
    Attack(attack::Args),
    #[command(subcommand)]
    Campaign(campaign::CampaignCommand),
    Chaos(chaos::Args),
    #[command(subcommand)]
    Drill(drill::Drill),
    E2e(e2e::Args),
    Failover(failover::Args),
    Handover(handover::Args),
    Restores(restores::Args),
    Roll(roll::Args),
    Status(status::Args),
    Conformance(conformance::Args),
    #[command(subcommand)]
    Testbed(testbed::Command),
    #[command(subcommand)]
    Torture(torture::Torture),
    Upgrade(upgrade::Args),
}

impl Other {
    /// Does what must be done while the process has one thread.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        if matches!(self, Self::E2e(_)) { e2e::prepare() } else { Ok(()) }
    }

    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Attack(args) => unless_interrupted(attack::run(args)).await,
            Self::Campaign(campaign) => unless_interrupted(campaign::run(campaign)).await,
            Self::Chaos(args) => unless_interrupted(chaos::run(args)).await,
            Self::Drill(drill) => unless_interrupted(drill::run(drill)).await,
            Self::E2e(args) => unless_interrupted(e2e::run(args)).await,
            Self::Failover(args) => unless_interrupted(failover::run(args)).await,
            Self::Handover(args) => unless_interrupted(handover::run(args)).await,
            Self::Restores(args) => unless_interrupted(restores::run(args)).await,
            Self::Roll(args) => unless_interrupted(roll::run(args)).await,
            Self::Status(args) => unless_interrupted(status::run(args)).await,
            Self::Conformance(args) => conformance::run(args).await,
            Self::Testbed(command) => unless_interrupted(testbed::run(command)).await,
            Self::Torture(torture) => unless_interrupted(torture::run(torture)).await,
            Self::Upgrade(args) => unless_interrupted(upgrade::run(args)).await,
        }
    }
}
