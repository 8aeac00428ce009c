//! What was probably meant by a flag that the command doesn't have.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use lease_settings::closest;

/// Every command takes the flags of all settings, so clap's own tips are drawn from a hundred that have nothing to do with
/// it. A command's own flags come first here; a setting's is named only where hardly anything else can be meant.
pub(crate) fn of_this_command(
    mut error: clap::Error,
    command: &clap::Command,
    arguments: &[OsString],
) -> clap::Error {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg).cloned() else {
        return error;
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let words = arguments.iter().skip(1).map_while(|word| word.to_str().filter(|word| *word != "--"));
    let named = words.fold(command, |found, word| found.find_subcommand(word).unwrap_or(found));
    let (settings, own): (Vec<_>, Vec<_>) = named
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg.is_hide_short_help_set())))
        .partition(|(_, is_setting)| *is_setting);
    let unknown = unknown.trim_start_matches('-');
    let meant = closest(unknown, own.iter().map(|(flag, _)| *flag), 0.88)
        .or_else(|| closest(unknown, settings.iter().map(|(flag, _)| *flag), 0.93))
        .map(|flag| ContextValue::String(format!("--{flag}")));
    // It shows what clap suggests.
    error.insert(ContextKind::Usage, ContextValue::StyledStr(named.clone().render_usage()));
    error.remove(ContextKind::Suggested);
    error.remove(ContextKind::SuggestedArg);
    if let Some(meant) = meant {
        error.insert(ContextKind::SuggestedArg, meant);
    }
    error
}
