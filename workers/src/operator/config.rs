//! `leasehold config`: the effective settings and their origins.

use std::process::ExitCode;

use serde_json::json;

use crate::{App, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Config, app: &App) -> Result<ExitCode, Failure> {
    app.settings().leader_election()?;
    let effective = app.settings().effective();
    if args.json {
        let file = app.settings().file();
        println!("{}", json!({ "file": file, "settings": effective }));
        return Ok(ExitCode::SUCCESS);
    }
    for setting in effective {
        println!("{setting}  # {}: {}", setting.layer, setting.origin);
    }
    Ok(ExitCode::SUCCESS)
}
