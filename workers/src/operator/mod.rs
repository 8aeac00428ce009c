//! The operator's commands.

use std::process::ExitCode;

use crate::{App, Failure};

mod config;

/// What an operator does.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Operation {
    /// Show the effective settings and where each comes from
    Config(config::Config),
}

pub(crate) fn run(operation: &Operation, app: &App) -> Result<ExitCode, Failure> {
    match operation {
        Operation::Config(args) => config::run(args, app),
    }
}
