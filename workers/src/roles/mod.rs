//! The roles: `leasehold worker …`, one folder each, and what they share.
//!
//! [`forwarder`] leads or waits: the leader polls the [`outbox`] and sends what it finds to [`ingest`], which keeps it
//! in the [`canonical`] store. Each of the two stores is a fenced resource of its own (F-1).

pub mod campaign;
pub mod canonical;
pub mod cloudevents;
mod connections;
pub mod database;
pub mod forwarder;
pub mod health;
pub mod ingest;
pub mod leading;
pub mod ledger;
pub mod mandate;
pub mod outbox;
mod pool;
pub mod request_id;
pub mod sidecar;
pub mod sweeper;
pub mod under_way;

use std::process::ExitCode;

use clap::{FromArgMatches, Subcommand};
use serde::Deserialize;

use crate::settings::{Block, Kind, Section, Setting};
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
    Chosen::SECTION,
    forwarder::Settings::SECTION,
    ingest::Settings::SECTION,
    ledger::Settings::SECTION,
    sidecar::Settings::SECTION,
    sweeper::Settings::SECTION,
    health::Settings::SECTION,
];

/// The roles' names on the command line and in `LEASEHOLD_ROLE`.
pub(crate) const NAMES: &[&str] =
    &["outbox-forwarder", "canonical-ingest", "ledger", "sidecar", "ttl-sweeper"];

/// Which role `leasehold` runs when its command line names none: for the entry point of an image.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Chosen {
    /// One of [`NAMES`].
    pub(crate) role: Option<String>,
}

impl Block for Chosen {
    const SECTION: Section = Section {
        name: "worker",
        about: "which worker an image runs",
        settings: &[Setting::new(
            "role",
            "LEASEHOLD_ROLE",
            Kind::OneOf(NAMES),
            "the role to run when the command line names none",
        )],
    };
}

/// Which role to run.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Role {
    /// Forward the audit outbox to canonical-ingest, while leading
    OutboxForwarder(forwarder::Args),
    /// Receive audit events, idempotently
    CanonicalIngest(ingest::Args),
    /// Serve fencing scopes, reservations and the audit outbox over gRPC
    Ledger(ledger::Args),
    /// Decide for the pods of this node, while holding the fencing scope
    Sidecar(sidecar::Args),
    /// Release expired reservations, while leading
    TtlSweeper(sweeper::Args),
}

impl Role {
    /// The role that is called `name`, one of [`NAMES`], without arguments of its own.
    pub(crate) fn named(name: &str) -> Self {
        let command = Self::augment_subcommands(clap::Command::new("worker"));
        let matches = command.get_matches_from(["worker", name]);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Its name: what log lines carry as `role`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::OutboxForwarder(_) => "outbox-forwarder",
            Self::CanonicalIngest(_) => "canonical-ingest",
            Self::Ledger(_) => "ledger",
            Self::Sidecar(_) => "sidecar",
            Self::TtlSweeper(_) => "ttl-sweeper",
        }
    }
}

/// For how long rows are kept: up to a hundred years, or 0 for ever.
pub(crate) const DAYS: Kind = Kind::Integer { min: 0, max: 36_500 };

/// Runs a role until it is told to stop.
pub(crate) fn run(role: &Role, app: &App) -> Result<ExitCode, Failure> {
    match role {
        Role::OutboxForwarder(args) => forwarder::run(args, app),
        Role::CanonicalIngest(args) => ingest::run(args, app),
        Role::Ledger(args) => ledger::run(args, app),
        Role::Sidecar(args) => sidecar::run(args, app),
        Role::TtlSweeper(args) => sweeper::run(args, app),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_one_name() {
        let command = Role::augment_subcommands(clap::Command::new("worker"));
        let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        assert_eq!(names, NAMES);
        for name in NAMES {
            assert_eq!(Role::named(name).name(), *name);
        }
    }
}
