//! `leasehold run`: any program runs only while it leads (rules G-1 to G-4).

use std::ffi::OsString;
use std::process::ExitCode;

use crate::settings::Section;
use crate::{App, Failure};

/// The guard's settings, part of the one model. The lease and its times are `leaderElection`'s: `--lease`, `--ttl`.
pub(crate) const SECTIONS: &[Section] = &[];

/// Run a program only while it holds the lease
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Create the lease first if it isn't there
    #[arg(long)]
    pub(crate) init: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// Runs the guard. No runtime and no thread exists yet when this is called.
pub(crate) fn run(args: &Run, app: &App) -> Result<ExitCode, Failure> {
    let _ = (app.store()?, args.init, &args.command);
    Err(Failure::Code(125, "`leasehold run` is not in this build yet".to_owned()))
}
