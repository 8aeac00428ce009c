//! `leasehold-lab`: tools for engineers, which production never ships.
//!
//! Each subcommand has a folder or file of its own. Without the feature `all` there is only `demo`.
//!
//! Exit codes: 0 every verdict holds, 1 one doesn't or something failed, 2 bad input, 130 or 143 ended by SIGINT or
//! SIGTERM.

#[cfg(feature = "all")]
mod arena;
#[cfg(feature = "all")]
mod args;
#[cfg(feature = "all")]
mod attack;
#[cfg(feature = "all")]
mod campaign;
#[cfg(feature = "all")]
mod chaos;
#[cfg(feature = "all")]
mod commands;
#[cfg(feature = "all")]
mod conformance;
mod demo;
#[cfg(feature = "all")]
mod drill;
#[cfg(feature = "all")]
mod e2e;
mod epoch;
#[cfg(feature = "all")]
mod failover;
#[cfg(feature = "all")]
mod fleet;
#[cfg(feature = "all")]
mod handover;
mod interrupt;
#[cfg(feature = "all")]
mod judged;
mod pause;
#[cfg(feature = "all")]
mod restores;
#[cfg(feature = "all")]
mod roll;
#[cfg(feature = "all")]
mod stats;
#[cfg(feature = "all")]
mod status;
#[cfg(feature = "all")]
mod testbed;
#[cfg(feature = "all")]
mod torture;
#[cfg(feature = "all")]
mod upgrade;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::interrupt::unless_interrupted;

/// Tools for engineers, which production never ships: demo, drills, chaos, failover and hand-over bars, conformance of
/// any server, servers to play with.
#[derive(Debug, Parser)]
#[command(name = "leasehold-lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    #[cfg(feature = "all")]
    #[command(flatten)]
    Other(Box<commands::Other>),
    #[cfg(not(feature = "all"))]
    #[command(external_subcommand)]
    LeftOut(Vec<String>),
}

fn main() -> ExitCode {
    #[cfg(feature = "all")]
    if let Some(code) = attack::attacked().or_else(torture::worker).or_else(upgrade::writer) {
        return code;
    }
    lease_stores::main_or_actor(|| {
        let command = Cli::parse().command;
        #[cfg(feature = "all")]
        if let Command::Other(other) = &command {
            // Before there is any thread.
            other.prepare()?;
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
        Command::Demo(args) => unless_interrupted(demo::run(args)).await,
        #[cfg(feature = "all")]
        Command::Other(other) => other.run().await,
        #[cfg(not(feature = "all"))]
        Command::LeftOut(words) => {
            eprintln!(
                "error: {:?} is not built in, only demo is: build every command by `cargo build -p leasehold -p lease-lab`",
                words[0]
            );
            return ExitCode::from(2);
        }
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
