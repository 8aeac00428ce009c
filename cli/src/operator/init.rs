//! `leasehold init` and `leasehold migrate-schema`.

use std::process::ExitCode;

use lease_core::admin::{self, Init};
use lease_core::internal::deadline;
use lease_core::{LeaseName, Term};
use lease_settings::{App, Failure, Together};
use serde_json::json;

use super::output::{line, span};
use super::session::Target;
use crate::run::waits;

/// Make the store ready (tables, migrations) and create leases that aren't there
///
/// A lease is created closed: candidates watch it for one maximum ttl before they take it, so that nobody leads beside
/// a holder that a lost or mistaken store doesn't know. Run it as often as you like; what exists stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold init --new outbox-forwarder      first installation: the first candidate leads at once
  leasehold init outbox-forwarder            after a loss, or whenever in doubt
  leasehold init --above 4711 outbox-forwarder   after a loss, when 4711 was the last epoch anybody knows")]
pub(crate) struct InitArgs {
    /// Create it free. First installations only: on a store that lost its leases, two could lead
    #[arg(long)]
    new: bool,
    /// Every later epoch exceeds N: the greatest that any log or fence knows, after a loss; at most 2^61
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(..=Term::MAX_ABOVE))]
    above: u64,
    /// Leave tables and migrations alone: they were made by a role with more rights
    #[arg(long)]
    no_migrate: bool,
    /// Write JSON, one line a lease
    #[arg(long)]
    json: bool,
    /// The leases [default: leaderElection.leaseName]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

pub(super) fn run(args: &InitArgs, app: &App) -> Result<ExitCode, Failure> {
    let settings = app.settings();
    let (leases, election, target) =
        (super::leases(&args.leases, settings), settings.leader_election(), Target::of(app)).together()?;
    let max_ttl = election.max_ttl_ms.unwrap_or(election.ttl_ms).into();
    app.block_on(async {
        if !args.no_migrate
            && let Some(done) = target.prepare().await?
            && !args.json
        {
            line(done)?;
        }
        let session = target.connect_or_create().await?;
        for name in &leases {
            let how = Init { new: args.new, above: args.above, max_ttl };
            let (seen, created) = session.change(admin::init(&*session.backend, name, how)).await?;
            let (epoch, free) = (seen.record.as_ref().map_or(0, |record| record.epoch), !waits(&seen));
            if args.json {
                line(json!({ "lease": name, "created": created, "free": free, "epoch": epoch }))?;
            } else if !created {
                line(format!("lease {name} exists already, at epoch {epoch}; nothing was changed"))?;
            } else if free {
                line(format!("lease {name} was created, free: the first candidate takes it at once"))?;
            } else {
                let wait = span(deadline::lengthened(max_ttl));
                line(format!(
                    "lease {name} was created, closed: candidates take it after watching it for {wait}"
                ))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Make the store's tables and run its migrations, and nothing else
///
/// `leasehold init` does this too. Here it stands alone, for a role that may create tables.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateSchema {}

pub(super) fn migrate_schema(_: &MigrateSchema, app: &App) -> Result<ExitCode, Failure> {
    let target = Target::of(app)?;
    app.block_on(async {
        let done = target.prepare().await?;
        line(done.unwrap_or_else(|| "this mode's store needs no preparation".to_owned()))?;
        Ok(ExitCode::SUCCESS)
    })
}
