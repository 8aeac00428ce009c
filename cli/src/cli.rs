//! The command line: one tree of commands, and the settings' flags on each of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use lease_core::printable;
use lease_settings::{
    App, BadSetting, BadSettings, Block, Failure, LeaderElection, Log, Mode, Model, Modes, Settings, Sources,
    ValueKind, Workload, masked,
};
use lease_worker_common::{ChosenRole, NamedRole, Role, Roles, stderr};

use crate::{logs, manual, modes, operator, run, tips};

/// Leases, leader election and fencing on the store that you already run
#[derive(Debug, Parser)]
#[command(name = "leasehold", version, propagate_version = true)]
#[command(disable_help_subcommand = true, disable_help_flag = true)]
#[command(after_help = "Examples:
  leasehold init --new nightly --sqlite-path /var/lib/leasehold/leases.db
  leasehold run --lease nightly --sqlite-path /var/lib/leasehold/leases.db -- ./report.sh
  leasehold --config leasehold.toml worker outbox-forwarder

Settings come from flags, else the environment, else the file, else defaults: `leasehold config`.

Exit codes: 0 done; 1 tried and failed; 2 bad input, nothing started; of `run`: 125, its program's.")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Operation(operator::Operation),
    /// Run a program only while it holds the lease
    Run(run::RunArgs),
    /// Run one of the workers
    Worker(Worker),
    #[command(flatten)]
    Manual(manual::Manual),
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
}

/// The program: the standard modes, roles and commands, and what an outsider adds.
pub struct Cli {
    modes: Modes,
    roles: Roles,
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

/// A command and all that it was told.
enum Task<'a> {
    Operation(operator::Operation),
    Run(run::RunArgs),
    Worker(&'a NamedRole, ArgMatches),
}

impl Cli {
    /// The program as it ships.
    pub fn new() -> Self {
        let mut roles = Roles::default();
        lease_spendguard::add_to(&mut roles);
        Self { modes: modes::standard(), roles }
    }

    /// Adds a mode, or replaces the one of the same name.
    #[must_use]
    pub fn with_mode(mut self, mode: impl Mode) -> Self {
        self.modes.add(mode);
        self
    }

    /// Adds a role, or replaces the one of the same name.
    #[must_use]
    pub fn with_role(mut self, role: impl Role) -> Self {
        self.roles.add(role);
        self
    }

    /// Reads the process's arguments and environment, does what they say, and returns the exit code.
    ///
    /// 0 done · 1 tried and failed · 2 bad input, nothing was started · 125 `run` itself failed · else `run`'s child's.
    ///
    /// Call it first thing in `main`: `run` starts this very program again, as further processes that must have one
    /// thread only.
    pub fn run(self) -> ExitCode {
        stderr::report_panics();
        let _flushed_at_last = FlushedAtLast;
        if let Some(code) = run::watchdog_or_keeper() {
            return code;
        }
        match self.execute() {
            Ok(code) => code,
            Err(failure) => {
                let messages = match &failure {
                    Failure::Setting(bad) => bad.iter().map(BadSetting::to_string).collect(),
                    other => vec![other.to_string()],
                };
                for message in messages.iter().filter(|message| !message.is_empty()) {
                    // It may quote a store's or a server's words.
                    stderr::line(format_args!("error: {}", printable(message)));
                }
                failure.exit_code()
            }
        }
    }

    /// Reads arguments, the program's name first, and an environment, and checks them, as [`run`](Self::run) does before
    /// it starts anything.
    ///
    /// # Errors
    /// All that can't be used, with exit code 2; of contradictions between settings the first.
    pub fn check(
        &self,
        arguments: impl IntoIterator<Item: Into<OsString>>,
        environment: BTreeMap<OsString, OsString>,
    ) -> Result<(), Failure> {
        let arguments: Vec<_> = arguments.into_iter().map(Into::into).collect();
        let read = read(&self.modes, &self.roles, &arguments, environment);
        let asked = read.map_err(|error| match error {
            ReadError::Arguments(error) => refused(&quoting(&error, &arguments)),
            ReadError::Settings(failure) => failure,
        })?;
        if let Asked::Task(task) = asked {
            task.0.leader_election()?;
        }
        Ok(())
    }

    fn execute(self) -> Result<ExitCode, Failure> {
        let Self { modes, roles } = self;
        let arguments: Vec<_> = std::env::args_os().collect();
        let read = read(&modes, &roles, &arguments, std::env::vars_os().collect());
        let asked = read.map_err(|error| match error {
            ReadError::Settings(failure) => failure,
            ReadError::Arguments(error) => match quoting(&error, &arguments) {
                masked if error.use_stderr() && masked != error.to_string() => refused(&masked),
                _ => error.exit(),
            },
        })?;
        let (settings, task) = match asked {
            Asked::Task(task) => *task,
            Asked::Manual(asked) => {
                let tree = |everywhere| command(&roles, &model(&modes, &roles), everywhere);
                return manual::run(&asked, tree);
            }
        };
        let (usual, role) = match &task {
            // Operators read answers, not logs. What kube's client has to say of failures, we say ourselves.
            Task::Operation(_) => ("warn,kube_client=off", None),
            Task::Run(_) => (run::LOG_FILTER, None),
            Task::Worker(role, _) => ("info,kube_client=off", Some(role.name())),
        };
        logs::start(&settings.block::<Log>()?, usual, role);
        let app = App::new(settings, modes);
        match &task {
            Task::Operation(operation) => operator::run(operation, &app),
            Task::Run(args) => run::run(args, &app),
            Task::Worker(role, given) => role.run(given, &app),
        }
    }
}

/// What was asked of the command line, or of the settings.
enum Asked<'a> {
    Task(Box<(Settings, Task<'a>)>),
    /// Not even the settings matter.
    Manual(manual::Manual),
}

/// Why there is nothing to do.
enum ReadError {
    /// Or a call for help, which clap answers.
    Arguments(clap::Error),
    Settings(Failure),
}

impl From<BadSettings> for ReadError {
    fn from(error: BadSettings) -> Self {
        Self::Settings(error.into())
    }
}

impl From<Failure> for ReadError {
    fn from(error: Failure) -> Self {
        Self::Settings(error)
    }
}

/// The first line of a message says it all.
fn refused(message: &str) -> Failure {
    let line = message.lines().next().unwrap_or_default();
    Failure::Code(2, line.strip_prefix("error: ").unwrap_or(line).to_owned())
}

/// clap's message, which quotes what it refuses: maybe a URL with its password.
fn quoting(error: &clap::Error, arguments: &[OsString]) -> String {
    let texts = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let values = texts.clone().filter_map(|text| text.split_once('=').map(|(_, value)| value.to_owned()));
    let quoted: Vec<_> = texts.map(Into::into).chain(values).collect();
    masked(&error.to_string(), &quoted)
}

fn read<'a>(
    modes: &Modes,
    roles: &'a Roles,
    arguments: &[OsString],
    environment: BTreeMap<OsString, OsString>,
) -> Result<Asked<'a>, ReadError> {
    let model = model(modes, roles);
    let mut command = command(roles, &model, true);
    let matches = command.try_get_matches_from_mut(arguments);
    let matches =
        matches.map_err(|error| ReadError::Arguments(tips::of_this_command(error, &command, arguments)))?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(ReadError::Arguments)?;
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
    if matches!(&arguments.command, Some(Command::Worker(Worker { json: true }))) {
        flags.insert("log-format".to_owned(), "json".to_owned());
    }
    let config = matches.get_one::<OsString>(CONFIG).map(PathBuf::from);
    let load = || Settings::load(model, &Sources { config, flags, environment });
    let (settings, task) = match arguments.command {
        Some(Command::Manual(manual)) => return Ok(Asked::Manual(manual)),
        Some(Command::Operation(operation)) => (load()?, Task::Operation(operation)),
        Some(Command::Run(run)) => (load()?, Task::Run(run)),
        asked @ (Some(Command::Worker(_)) | None) => {
            let settings = load()?;
            let named = matches.subcommand().and_then(|(_, worker)| worker.subcommand());
            let role = worker(named, asked.is_some(), roles, &settings)?;
            (settings, role)
        }
    };
    Ok(Asked::Task(Box::new((settings, task))))
}

/// Whether the program returns or panics.
struct FlushedAtLast;

impl Drop for FlushedAtLast {
    fn drop(&mut self) {
        stderr::flush();
    }
}

fn model(modes: &Modes, roles: &Roles) -> Model {
    let mut sections = vec![LeaderElection::SECTION];
    sections.extend(modes.sections());
    sections.push(Workload::SECTION);
    sections.extend(roles.sections());
    sections.extend([operator::Operator::SECTION, Log::SECTION]);
    Model::new(sections)
}

/// The whole tree of commands. The settings' flags are `everywhere`, or else where they may always stand: before the
/// command.
fn command(roles: &Roles, model: &Model, everywhere: bool) -> clap::Command {
    let command =
        Arguments::command().mut_subcommand("worker", |worker| worker.subcommands(roles.commands()));
    with_flags(command, model, everywhere)
}

/// The role that was named on the command line, or else by the settings.
fn worker<'a>(
    named: Option<(&str, &ArgMatches)>,
    asked_for: bool,
    roles: &'a Roles,
    settings: &Settings,
) -> Result<Task<'a>, Failure> {
    let known = |name: &str| roles.find(name).expect("clap and the settings' check know the same names");
    if let Some((name, given)) = named {
        return Ok(Task::Worker(known(name), given.clone()));
    }
    match settings.block::<ChosenRole>()?.role {
        Some(name) => {
            let role = known(&name);
            Ok(Task::Worker(role, role.no_arguments()))
        }
        None if asked_for => {
            let why = format!(
                "name it after `leasehold worker`, or by LEASEHOLD_ROLE; use one of {}",
                roles.names().join(", ")
            );
            Err(settings.refuse::<ChosenRole>("role", why).into())
        }
        None => {
            let why = "name a command, or a role by LEASEHOLD_ROLE; `leasehold --help` lists all";
            Err(Failure::Code(2, why.to_owned()))
        }
    }
}

/// The id of `--config`.
const CONFIG: &str = "LEASEHOLD_CONFIG";

/// Every setting's flag. An argument's id is its variable, which no command's own argument is called.
fn with_flags(mut command: clap::Command, model: &Model, everywhere: bool) -> clap::Command {
    let flag = |id: &'static str, name: &'static str, help: String| {
        Arg::new(id)
            .long(name)
            .help(help)
            .global(everywhere)
            .hide_short_help(everywhere)
            .allow_negative_numbers(true)
    };
    let config = flag(CONFIG, "config", format!("the settings file, TOML [env: {CONFIG}]"));
    let path = clap::value_parser!(OsString);
    command = command.arg(config.value_name("FILE").value_parser(path).hide_short_help(false));
    let help = Arg::new("help").long("help").global(true);
    command = command.arg(help.clone().short('h').action(ArgAction::HelpShort).help("Print help")).arg(
        help.id("help-all")
            .long("help-all")
            .action(ArgAction::HelpLong)
            .help("Print all help, with every setting: its flag, variable and key"),
    );
    for (section, setting) in model.settings() {
        let key = format!("{}.{}", section.name, setting.key);
        let default = setting.default.unwrap_or(setting.unset);
        let time = matches!(setting.kind, ValueKind::Millis { .. });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> clap::Command {
        let Cli { modes, roles } = Cli::new();
        command(&roles, &model(&modes, &roles), true)
    }

    #[test]
    fn no_settings_flag_is_also_a_commands_own() {
        whole().debug_assert();
    }

    fn for_each(command: &mut clap::Command, judge: &mut impl FnMut(&mut clap::Command)) {
        judge(command);
        command.get_subcommands_mut().for_each(|inner| for_each(inner, judge));
    }

    #[test]
    fn each_commands_help_fits_a_screen_and_its_whole_help_has_every_setting() {
        let Cli { modes, roles } = Cli::new();
        let model = model(&modes, &roles);
        let mut whole = command(&roles, &model, true).term_width(100);
        whole.build();
        let (mut wrong, mut count) = (Vec::new(), 0);
        for_each(&mut whole, &mut |command| {
            let (help, all) = (command.render_help().to_string(), command.render_long_help().to_string());
            let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
            let name = command.get_bin_name().unwrap_or_default().to_owned();
            let widest = help.lines().map(|line| line.chars().count()).max().unwrap_or_default();
            if help.lines().count() > 40 || widest > 100 {
                wrong.push(format!("{name}: {} lines, {widest} columns", help.lines().count()));
            }
            if !help.contains("--help-all") || help.contains("SPENDGUARD_LEADER_LEASE_TTL_MS") {
                wrong.push(format!("{name}: its help doesn't say where the settings are, or shows them"));
            }
            let is_missing =
                |setting: &lease_settings::Setting| !all.contains(&format!("[env: {}]", setting.env));
            let missing =
                model.settings().filter(|(_, setting)| setting.flag.is_some() && is_missing(setting));
            wrong.extend(missing.map(|(_, setting)| format!("{name} --help-all lacks {}", setting.env)));
            count += 1;
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count > 20, "only {count} commands");
    }
}
