//! `leasehold-lab`: what engineers run and production never ships.
//!
//! Each subcommand has a folder or file of its own. Exit codes: 0 every verdict holds, 1 one doesn't or something
//! failed, 2 bad input, 130 or 143 ended by SIGINT or SIGTERM.

mod arena;
mod args;
mod chaos;
mod conformance;
mod demo;
mod drill;
mod e2e;
mod epoch;
mod failover;
mod fleet;
mod handover;
mod interrupt;
mod judged;
mod roll;
mod stats;
mod testbed;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::interrupt::unless_interrupted;

/// What engineers run on Leasehold and production never ships: chaos, failover and hand-over bars, conformance of
/// any server, servers to play with.
#[derive(Debug, Parser)]
#[command(name = "leasehold-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Chaos(chaos::Args),
    Demo(demo::Args),
    #[command(subcommand)]
    Drill(drill::Drill),
    E2e(e2e::Args),
    Failover(failover::Args),
    Handover(handover::Args),
    Roll(roll::Args),
    Conformance(conformance::Args),
    #[command(subcommand)]
    Testbed(testbed::Command),
}

fn main() -> ExitCode {
    lease_stores::main_or_actor(|| {
        let command = Cli::parse().command;
        if matches!(command, Command::E2e(_)) {
            // Before there is any thread.
            e2e::prepare()?;
        }
        Ok(run(command))
    })
}

#[tokio::main]
async fn run(command: Command) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "error,kube_client=off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match command {
        Command::Chaos(args) => unless_interrupted(chaos::run(args)).await,
        Command::Demo(args) => unless_interrupted(demo::run(args)).await,
        Command::Drill(drill) => unless_interrupted(drill::run(drill)).await,
        Command::E2e(args) => unless_interrupted(e2e::run(args)).await,
        Command::Failover(args) => unless_interrupted(failover::run(args)).await,
        Command::Handover(args) => unless_interrupted(handover::run(args)).await,
        Command::Roll(args) => unless_interrupted(roll::run(args)).await,
        Command::Conformance(args) => conformance::run(args).await,
        Command::Testbed(command) => unless_interrupted(testbed::run(command)).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The exit code of a run whose verdicts all hold, or don't.
fn exit_code(holds: bool) -> ExitCode {
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
