//! The command line: one tree of commands, and the settings' flags on each of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;
use crate::modes::{Mode, Registry, Store};
use crate::settings::{
    BadSetting, Block, Kind, LeaderElection, Log, Model, Operator, Settings, Sources, Workload,
};
use crate::{logs, operator, roles, run};

/// Leases, leader election and fencing on the store that you already run
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Examples:
  leasehold init --new nightly --sqlite-path /var/lib/leasehold/leases.db
  leasehold run --lease nightly --sqlite-path /var/lib/leasehold/leases.db -- ./report.sh
  leasehold --config leasehold.toml worker outbox-forwarder
  leasehold --mode postgres --postgres-url-file /etc/leasehold/url watch

Settings come from flags, else the environment, else the settings file, else
defaults. --help lists them all, `leasehold config` shows the effective ones.

Exit codes: 0 done; 1 tried and failed; 2 bad input, nothing was started; 125
`run` itself failed, else its program's own code.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Operation(operator::Operation),
    /// Run a program only while it holds the lease
    Run(run::Run),
    /// Run one of the workers
    Worker(Worker),
}

/// Run one of the workers
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a ROLE, LEASEHOLD_ROLE says which: for the entry point of an image, where `leasehold`
by itself does as well."
)]
struct Worker {
    /// Write the log as JSON: the same as --log-format json
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    role: Option<roles::Role>,
}

/// The program: the standard modes and commands, and what an outsider adds.
pub struct Cli {
    registry: Registry,
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

impl Cli {
    /// The program as it ships.
    pub fn new() -> Self {
        Self { registry: Registry::standard() }
    }

    /// Adds a mode, or replaces the one of the same name.
    #[must_use]
    pub fn with_mode(mut self, mode: impl Mode) -> Self {
        self.registry.add(mode);
        self
    }

    /// Reads the process's arguments and environment, does what they say, and returns the exit code.
    ///
    /// 0 done · 1 tried and failed · 2 bad input, nothing was started · 125 `run` itself failed · else `run`'s child's.
    ///
    /// Call it first thing in `main`: `run` starts this very program again, as a second process that must have one
    /// thread only.
    pub fn run(self) -> ExitCode {
        if let Some(code) = run::keeper() {
            return code;
        }
        match self.execute() {
            Ok(code) => code,
            Err(failure) => {
                let message = failure.to_string();
                if !message.is_empty() {
                    eprintln!("error: {message}");
                }
                failure.exit_code()
            }
        }
    }

    fn execute(self) -> Result<ExitCode, Failure> {
        let model = self.model();
        let matches = with_flags(Arguments::command(), &model).get_matches();
        let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let mut flags = BTreeMap::new();
        for (_, setting) in model.settings() {
            let from = setting.from_file;
            let both = [(setting.flag, setting.env), (from.map(|f| f.flag), from.map_or("", |f| f.env))];
            for (flag, id) in both.into_iter().filter_map(|(flag, id)| Some((flag?, id))) {
                if let Some(text) = matches.get_one::<String>(id) {
                    flags.insert(flag.to_owned(), text.clone());
                }
            }
        }
        if matches!(&arguments.command, Some(Command::Worker(Worker { json: true, .. }))) {
            flags.insert("log-format".to_owned(), "json".to_owned());
        }
        let config = matches.get_one::<OsString>(CONFIG).map(PathBuf::from);
        let sources = Sources { config, flags, environment: std::env::vars_os().collect() };
        let settings = Settings::load(model, &sources)?;
        let command = settled(arguments.command, &settings)?;
        let usual = match &command {
            // Operators read answers, not logs. What kube's client has to say of failures, we say ourselves.
            Command::Operation(_) => "warn,kube_client=off",
            Command::Run(_) => run::LOG_FILTER,
            Command::Worker(_) => "info,kube_client=off",
        };
        let role = match &command {
            Command::Worker(worker) => worker.role.as_ref().map(roles::Role::name),
            _ => None,
        };
        logs::start(&settings.block::<Log>()?, usual, role);
        let app = App { settings, registry: self.registry };
        // `config` shows the settings before it refuses them.
        if !matches!(command, Command::Operation(operator::Operation::Config(_))) {
            app.settings.leader_election()?;
        }
        match &command {
            Command::Operation(operation) => operator::run(operation, &app),
            Command::Run(args) => run::run(args, &app),
            Command::Worker(Worker { role: Some(role), .. }) => roles::run(role, &app),
            Command::Worker(Worker { role: None, .. }) => unreachable!("settled"),
        }
    }

    fn model(&self) -> Model {
        let mut sections = vec![LeaderElection::SECTION];
        sections.extend(self.registry.sections());
        sections.push(Workload::SECTION);
        sections.extend_from_slice(roles::SECTIONS);
        sections.extend_from_slice(run::SECTIONS);
        sections.extend([Operator::SECTION, Log::SECTION]);
        Model::new(sections)
    }
}

/// The command that was given, or else the role that the settings name.
fn settled(given: Option<Command>, settings: &Settings) -> Result<Command, Failure> {
    let json = match given {
        None => false,
        Some(Command::Worker(Worker { role: None, json })) => json,
        Some(command) => return Ok(command),
    };
    match settings.block::<roles::Chosen>()?.role {
        Some(name) => Ok(Command::Worker(Worker { role: Some(roles::Role::named(&name)), json })),
        None if given.is_some() => {
            let why = format!(
                "name it after `leasehold worker`, or by LEASEHOLD_ROLE; use one of {}",
                roles::NAMES.join(", ")
            );
            Err(settings.refuse::<roles::Chosen>("role", why).into())
        }
        None => {
            let why = "name a command, or a role by LEASEHOLD_ROLE; `leasehold --help` lists all";
            Err(Failure::Code(2, why.to_owned()))
        }
    }
}

/// The id of `--config`.
const CONFIG: &str = "LEASEHOLD_CONFIG";

/// Every setting's flag, on every command. An argument's id is its variable, which no command's own argument is called.
fn with_flags(mut command: clap::Command, model: &Model) -> clap::Command {
    let flag = |id: &'static str, name: &'static str, help: String| {
        Arg::new(id).long(name).help(help).global(true).hide_short_help(true).allow_negative_numbers(true)
    };
    let config = flag(CONFIG, "config", format!("the settings file, TOML [env: {CONFIG}]"));
    let path = clap::value_parser!(OsString);
    command = command.arg(config.value_name("FILE").value_parser(path).hide_short_help(false));
    for (section, setting) in model.settings() {
        let key = format!("{}.{}", section.name, setting.key);
        let default = setting.default.unwrap_or(setting.unset);
        let time = matches!(setting.kind, Kind::Millis { .. });
        let unit = if time && setting.default.is_some() { "ms" } else { "" };
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}{unit}]") };
        let seen = if setting.secret { ", visible to all users of this machine" } else { "" };
        if let Some(name) = setting.flag {
            let help = format!("{}{seen}{default} [env: {}] [file: {key}]", setting.help, setting.env);
            let value = if time { "TIME" } else { "VALUE" };
            command =
                command.arg(flag(setting.env, name, help).value_name(value).help_heading(section.about));
        }
        if let Some(from) = setting.from_file {
            let help = format!("a file that holds {key} [env: {}]", from.env);
            command =
                command.arg(flag(from.env, from.flag, help).value_name("FILE").help_heading(section.about));
        }
    }
    command
}

/// What a command works with: the settings and the modes.
pub struct App {
    settings: Settings,
    registry: Registry,
}

impl App {
    /// The effective settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The lease store that the settings name, not connected yet; `None` in mode `disabled`.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn store(&self) -> Result<Option<Store>, BadSetting> {
        self.registry.open(&self.settings)
    }

    /// The store that the lease is to be moved from before this program campaigns, not connected yet (M-1).
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn migrate_from(&self) -> Result<Option<Store>, BadSetting> {
        let Some(from) = self.settings.leader_election()?.migrate_from else { return Ok(None) };
        let store = self.registry.open_as(&self.settings, "migrateFrom", &from)?;
        store.map(Some).ok_or_else(|| {
            let why = "mode disabled has no lease that could be moved: remove this";
            self.settings.refuse::<LeaderElection>("migrateFrom", why)
        })
    }

    /// Runs a command's future on a runtime of its own.
    ///
    /// # Errors
    /// The future's, or that no runtime could start.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("no runtime could start: {error}")))?;
        let ended = runtime.block_on(work);
        // What was abandoned must not hold up the process's end.
        runtime.shutdown_background();
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_settings_flag_is_also_a_commands_own() {
        let cli = Cli::new();
        with_flags(Arguments::command(), &cli.model()).debug_assert();
    }
}
