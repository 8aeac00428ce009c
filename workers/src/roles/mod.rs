//! The roles: `leasehold worker …`, one module each.

use std::process::ExitCode;

use crate::settings::Section;
use crate::{App, Failure};

/// The roles' settings, part of the one model.
pub(crate) const SECTIONS: &[Section] = &[];

/// Which role to run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// Forward the audit outbox to canonical-ingest, while leading
    OutboxForwarder,
    /// Receive audit events, idempotently
    CanonicalIngest,
}

/// Runs a role until it is told to stop.
pub(crate) fn run(role: &Role, app: &App) -> Result<ExitCode, Failure> {
    let _ = app.store()?;
    Err(Failure::new(format!("{role:?} is not in this build yet")))
}
