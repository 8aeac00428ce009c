//! The operator's commands: short-lived, each call to the store limited in time, answers in sentences.

mod config;
mod detail;
mod fence;
mod forget_work;
mod history;
mod init;
mod migrate;
mod output;
mod plan;
mod prepare_folder;
mod restored;
mod revoke;
mod screen;
mod session;
mod settings;
mod show;
mod status;
mod step_down;
mod table;
mod wakes;
mod watch;
mod which;

use std::process::ExitCode;

use lease_core::{LeaseName, Record};
use lease_settings::{App, BadSetting, Failure, LeaderElection, Settings};

pub(crate) use settings::Operator;

/// An operator's command.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Operation {
    Init(init::InitArgs),
    MigrateSchema(init::MigrateSchema),
    Migrate(migrate::Migrate),
    Status(status::Status),
    List(status::List),
    Watch(watch::Watch),
    History(history::HistoryArgs),
    StepDown(step_down::StepDown),
    Revoke(revoke::RevokeArgs),
    Restored(restored::Restored),
    ForgetWork(forget_work::ForgetWork),
    /// Answer a fence that has admitted epochs which the store no longer knows
    #[command(subcommand)]
    Fence(fence::FenceCommand),
    Config(config::Config),
    Plan(plan::ShowPlan),
    PrepareFolder(prepare_folder::PrepareFolder),
}

pub(crate) fn run(operation: &Operation, app: &App) -> Result<ExitCode, Failure> {
    match operation {
        Operation::Init(args) => init::run(args, app),
        Operation::MigrateSchema(args) => init::migrate_schema(args, app),
        Operation::Migrate(args) => migrate::run(args, app),
        Operation::Status(args) => status::run(args, app),
        Operation::List(args) => status::list(args, app),
        Operation::Watch(args) => watch::run(args, app),
        Operation::History(args) => history::run(args, app),
        Operation::StepDown(args) => step_down::run(args, app),
        Operation::Revoke(args) => revoke::run(args, app),
        Operation::Restored(args) => restored::run(args, app),
        Operation::ForgetWork(args) => forget_work::run(args, app),
        Operation::Fence(args) => fence::run(args, app),
        Operation::Config(args) => config::run(args, app),
        Operation::Plan(args) => plan::run(args, app),
        Operation::PrepareFolder(args) => prepare_folder::run(args),
    }
}

/// The lease that an argument names, or else the settings.
fn lease(argument: Option<&LeaseName>, settings: &Settings) -> Result<LeaseName, BadSetting> {
    let set = settings.block::<LeaderElection>()?.lease_name;
    settings.required::<LeaderElection, _>("leaseName", argument.cloned().or(set)).map_err(|bad| {
        let why = "name the lease as the command's argument, by --lease or by SPENDGUARD_LEADER_LEASE_NAME";
        BadSetting { why: why.to_owned(), ..bad }
    })
}

/// The leases that arguments name, or else the settings.
fn leases(arguments: &[LeaseName], settings: &Settings) -> Result<Vec<LeaseName>, BadSetting> {
    if arguments.is_empty() { lease(None, settings).map(|name| vec![name]) } else { Ok(arguments.to_vec()) }
}

/// A register's state in one word, for machines.
fn state(record: &Record) -> &'static str {
    match record.grant {
        _ if record.sealed.is_some() => "sealed",
        None => "free",
        Some(_) if record.holder.is_empty() => "closed",
        Some(_) if ended_by_operator(record) => "revoked",
        Some(_) => "held",
    }
}

/// Is the present grant nobody's, because an operator ended the term before it? The record keeps the old holder's name
/// then, and says why; a new term begins with neither note nor history. For people only: nothing decides by it.
fn ended_by_operator(record: &Record) -> bool {
    let restored = record.lineage.is_restored();
    record.beat == 0 && !restored && (!record.note.is_empty() || record.acquired_at != record.renewed_at)
}
