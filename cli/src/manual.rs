//! What a shell and `man` know of the command line: `leasehold completions` and `leasehold man`.

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap_complete::Shell;
use clap_mangen::Man;
use lease_settings::Failure;
use lease_worker_common::stdout::written;

/// What is made of the command line itself.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Manual {
    Completions(Completions),
    #[command(name = "man")]
    Pages(ManPages),
}

/// `tree` is the whole command line, with the settings' flags on every command or on the first one alone.
pub(crate) fn run(asked: &Manual, tree: impl Fn(bool) -> clap::Command) -> Result<ExitCode, Failure> {
    match asked {
        Manual::Completions(args) => completions(args, tree(true)),
        Manual::Pages(args) => man_pages(args, tree(false)),
    }
}

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(leasehold completions bash)
  leasehold completions fish > ~/.config/fish/completions/leasehold.fish
  leasehold completions zsh > \"${fpath[1]}/_leasehold\"")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the man page, or write one for each command
///
/// The settings' flags are on the first page; the others have their command's own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold man | man -l -
  leasehold man /usr/local/share/man/man1")]
pub(crate) struct ManPages {
    /// The folder to write them to; it is made if it isn't there [default: the first page to standard output]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

fn completions(args: &Completions, mut command: clap::Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "leasehold", &mut script);
    written(stdout().write_all(&script))?;
    Ok(ExitCode::SUCCESS)
}

fn man_pages(args: &ManPages, command: clap::Command) -> Result<ExitCode, Failure> {
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        written(Man::new(command).render(&mut page).and_then(|()| stdout().write_all(&page)))?;
        return Ok(ExitCode::SUCCESS);
    };
    let made = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
    made.map_err(|error| {
        Failure::new(format!("the man pages can't be written to {}: {error}", folder.display()))
    })?;
    Ok(ExitCode::SUCCESS)
}
