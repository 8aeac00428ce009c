//! `leasehold-lab testbed`: servers to play with.

use std::process::ExitCode;

use clap::ValueEnum;
use lease_postgres::PostgresConfig;
use lease_testbed::{Postgres, PostgresOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Servers to play with.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a server on a free port, with Leasehold's tables, and say how to reach it; Ctrl-C ends it and removes
    /// all that was in it.
    Up {
        /// Which server.
        server: Server,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Server {
    /// PostgreSQL, with fsync on.
    Postgres,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Up { server: Server::Postgres } = command;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let url = postgres.url();
    lease_postgres::migrate(&PostgresConfig::new(&url)?).await?;
    println!("PostgreSQL is up, with Leasehold's tables in it. Its url, of a superuser:");
    println!("  {url}");
    println!("Try:");
    println!("  psql {url} -c 'TABLE coordination_leases'");
    println!("  leasehold-lab conformance --mode postgres --url {url}");
    println!("Ctrl-C ends it and removes all that was in it.");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    postgres.stop_fast().await?;
    println!("\nIt has ended.");
    Ok(ExitCode::SUCCESS)
}
