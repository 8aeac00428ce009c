//! The registry of roles: each is one entry, which `leasehold worker NAME` runs.

use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use lease_settings::{App, Block, Failure, Section, Setting, ValueKind};
use serde::Deserialize;

use crate::{connections, health};

/// One kind of worker.
pub trait Role: Send + Sync + 'static {
    /// Its arguments on the command line. The type's doc comment is the text of its `--help-all`, the first paragraph that of `--help`.
    type Arguments: Args;

    /// Its name: on the command line, in `LEASEHOLD_ROLE`, and as `role` in log lines.
    const NAME: &'static str;

    /// Its settings.
    const SECTIONS: &'static [Section];

    /// Runs until it is told to stop, and returns the exit code.
    ///
    /// # Errors
    /// A setting that can't be used, before anything is started; or that the work failed.
    fn run(&self, arguments: &Self::Arguments, app: &App) -> Result<ExitCode, Failure>;
}

type Run = dyn Fn(&ArgMatches, &App) -> Result<ExitCode, Failure> + Send + Sync;

/// A role in the registry.
pub struct NamedRole {
    name: &'static str,
    sections: &'static [Section],
    command: Command,
    run: Box<Run>,
}

impl NamedRole {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The arguments of a role that is started without any.
    pub fn no_arguments(&self) -> ArgMatches {
        self.command.clone().no_binary_name(true).get_matches_from(std::iter::empty::<&str>())
    }

    /// Runs it with what clap found on the command line.
    ///
    /// # Errors
    /// The role's.
    pub fn run(&self, given: &ArgMatches, app: &App) -> Result<ExitCode, Failure> {
        (self.run)(given, app)
    }
}

/// The roles that `leasehold worker` and `LEASEHOLD_ROLE` may name.
#[derive(Default)]
pub struct Roles(Vec<NamedRole>);

impl Roles {
    /// Adds a role, or replaces the one of the same name.
    pub fn add<R: Role>(&mut self, role: R) {
        self.0.retain(|present| present.name != R::NAME);
        let run = move |given: &ArgMatches, app: &App| {
            let arguments = R::Arguments::from_arg_matches(given).unwrap_or_else(|error| error.exit());
            connections::raise_descriptor_limit();
            role.run(&arguments, app)
        };
        self.0.push(NamedRole {
            name: R::NAME,
            sections: R::SECTIONS,
            command: R::Arguments::augment_args(Command::new(R::NAME)),
            run: Box::new(run),
        });
    }

    /// The role of this name.
    pub fn find(&self, name: &str) -> Option<&NamedRole> {
        self.0.iter().find(|role| role.name == name)
    }

    /// The names of all roles.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|role| role.name).collect()
    }

    /// A subcommand for each role.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        self.0.iter().map(|role| role.command.clone())
    }

    /// The settings of all roles, and those that they share.
    ///
    /// Leaks a list of the names: call it once in a process.
    pub fn sections(&self) -> Vec<Section> {
        let names: &'static [&'static str] = self.names().leak();
        let setting = Setting { kind: ValueKind::OneOf(names), ..ChosenRole::SECTION.settings[0] };
        let chosen = Section { settings: vec![setting].leak(), ..ChosenRole::SECTION };
        let own = self.0.iter().flat_map(|role| role.sections).copied();
        std::iter::once(chosen).chain(own).chain([health::HealthSettings::SECTION]).collect()
    }
}

/// The role that `leasehold` runs when its command line names none: for the entry point of an image.
#[derive(Clone, Debug, Deserialize)]
pub struct ChosenRole {
    /// A name in the registry.
    pub role: Option<String>,
}

impl Block for ChosenRole {
    const SECTION: Section = Section {
        name: "worker",
        about: "which worker an image runs",
        settings: &[Setting::new(
            "role",
            "LEASEHOLD_ROLE",
            ValueKind::Text,
            "the role to run when the command line names none",
        )],
    };
}
