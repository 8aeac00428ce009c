//! `leasehold status` and `leasehold list`: what each holder last wrote. No verdict: a single look can't tell who is
//! alive.

use std::process::ExitCode;

use lease_core::LeaseName;
use lease_settings::{App, Failure};

use super::output::{line, text};
use super::session::Target;
use super::show::{Show, as_json};
use super::which::Which;
use super::{detail, screen, table};

/// Show what each holder last wrote; `leasehold watch` judges who is alive
///
/// Times are the holders' own clocks', compared with this machine's: they are for people, and may be wrong. Nothing in
/// the protocol compares them. LEFT is the time until the term runs out by its holder's clock; `-3s` is three seconds
/// ago.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold status                      a table of all leases
  leasehold status outbox-forwarder     all about one
  leasehold status -o wide --watch

Exit code 1 if a lease that was named is not there, or one can't be read.")]
pub(crate) struct Status {
    #[command(flatten)]
    show: Show,
    /// The leases [default: all in the store]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

/// Show the leases of the store, or those whose name begins with a prefix
///
/// A table as that of `leasehold status`, and its times are to be read in the same way.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold list
  leasehold list sidecar- -o wide")]
pub(crate) struct List {
    #[command(flatten)]
    show: Show,
    /// The beginning of their names [default: any]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
}

pub(super) fn run(args: &Status, app: &App) -> Result<ExitCode, Failure> {
    let which = match args.leases.as_slice() {
        [] => Which::BeginningWith(String::new()),
        names => Which::Named(names.to_vec()),
    };
    show(&args.show, &which, args.leases.len() == 1 && args.show.is_plain(), app)
}

pub(super) fn list(args: &List, app: &App) -> Result<ExitCode, Failure> {
    show(&args.show, &Which::BeginningWith(args.prefix.clone()), false, app)
}

fn show(how: &Show, which: &Which, in_sentences: bool, app: &App) -> Result<ExitCode, Failure> {
    let target = Target::of(app)?;
    app.block_on(async {
        if how.watch {
            return screen::watch(how, which, target).await;
        }
        let description = target.store.to_string();
        let seen = which.look(&target.connect().await?).await?;
        if how.is_json() {
            seen.iter().try_for_each(|(name, seen)| line(as_json(name, seen)))?;
        } else if seen.is_empty() {
            line(match which.prefix() {
                "" => format!("there are no leases in {description}; `leasehold init` creates one"),
                prefix => format!("no lease in {description} begins with {prefix}"),
            })?;
        } else if in_sentences {
            for (name, seen) in &seen {
                let Ok(seen) = seen else { continue };
                let mut lines = detail::as_text(name, seen).into_iter();
                lines.next().map_or(Ok(()), line)?;
                lines.try_for_each(|more| line(format!("  {more}")))?;
            }
        } else {
            text(&(table::lines(&seen, how).join("\n") + "\n"))?;
        }
        let all_there = seen.iter().all(|(_, seen)| seen.as_ref().is_ok_and(|seen| seen.record.is_some()));
        Ok(if all_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
