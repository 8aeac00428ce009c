//! The roles: `leasehold worker …`, one folder each, and what they share.
//!
//! [`forwarder`] leads or waits: the leader polls the [`outbox`] and sends what it finds to [`ingest`], which keeps it
//! in the [`canonical`] store. Each of the two stores is a fenced resource of its own (F-1).

pub mod campaign;
pub mod canonical;
pub mod cloudevents;
pub mod database;
pub mod forwarder;
pub mod health;
pub mod ingest;
pub mod leading;
pub mod ledger;
pub mod mandate;
pub mod outbox;
pub mod sweeper;

use std::process::ExitCode;

use crate::settings::{Block, Section};
use crate::{App, Failure};

/// An HTTP client that gives up after `limit`.
///
/// # Errors
/// The system's certificates can't be read.
pub fn http_client(limit: std::time::Duration) -> reqwest::Result<reqwest::Client> {
    // Two libraries may bring providers of their own; we choose one for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(limit).redirect(reqwest::redirect::Policy::none()).build()
}

/// The roles' settings, part of the one model.
pub(crate) const SECTIONS: &[Section] = &[
    forwarder::Settings::SECTION,
    ingest::Settings::SECTION,
    ledger::Settings::SECTION,
    sweeper::Settings::SECTION,
    health::Settings::SECTION,
];

/// Which role to run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// Forward the audit outbox to canonical-ingest, while leading
    OutboxForwarder(forwarder::Args),
    /// Receive audit events, idempotently
    CanonicalIngest(ingest::Args),
    /// Serve fencing scopes, reservations and the audit outbox over gRPC
    Ledger(ledger::Args),
    /// Release expired reservations, while leading
    TtlSweeper(sweeper::Args),
}

/// Runs a role until it is told to stop.
pub(crate) fn run(role: &Role, app: &App) -> Result<ExitCode, Failure> {
    match role {
        Role::OutboxForwarder(args) => forwarder::run(args, app),
        Role::CanonicalIngest(args) => ingest::run(args, app),
        Role::Ledger(args) => ledger::run(args, app),
        Role::TtlSweeper(args) => sweeper::run(args, app),
    }
}
