//! `leasehold config`: the effective settings and their origins.

use std::process::ExitCode;

use lease_settings::{App, Failure, Together};
use serde_json::json;

use super::output::line;

/// Show the effective settings and where each comes from, and check them
///
/// The output is a settings file itself, except that secrets are not shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 2 if the settings can't be used.")]
pub(crate) struct Config {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Config, app: &App) -> Result<ExitCode, Failure> {
    let settings = app.settings();
    let effective = settings.effective();
    if args.json {
        line(json!({ "file": settings.file(), "settings": effective }))?;
    } else {
        match settings.file() {
            Some(file) => line(format!("# settings file: {}", file.display()))?,
            None => line("# settings file: none (--config or LEASEHOLD_CONFIG names one)")?,
        }
        let mut about = "";
        for setting in effective {
            if setting.about != about {
                about = setting.about;
                line("")?;
                line(format!("# {about}"))?;
            }
            line(setting)?;
        }
    }
    (settings.leader_election(), app.store()).together()?;
    Ok(ExitCode::SUCCESS)
}
