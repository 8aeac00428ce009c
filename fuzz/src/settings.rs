//! The settings file and the environment, for every command that reads them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use lease_settings::Failure;

const COMMANDS: [&[&str]; 7] = [
    &["config"],
    &["status", "one"],
    &["run", "--lease", "one", "--", "true"],
    &["worker", "outbox-forwarder"],
    &["worker", "canonical-ingest"],
    &["worker", "ledger"],
    &["worker", "sidecar"],
];

/// A byte that chooses the command, lines `NAME=VALUE` of the environment, an empty line, and the file.
pub(crate) fn file(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let end = rest.windows(2).position(|two| two == b"\n\n");
    let (environment, text) = end.map_or((&[][..], rest), |end| (&rest[..end], &rest[end + 2..]));
    let environment: BTreeMap<OsString, OsString> =
        environment.split(|byte| *byte == b'\n').filter_map(pair).collect();
    let folder = tempfile::tempdir().expect("a folder for the settings file");
    let path = folder.path().join("leasehold.toml");
    fs::write(&path, text).expect("the settings file can be written");
    let command = COMMANDS[usize::from(*first) % COMMANDS.len()];
    let arguments = ["leasehold", "--config"].map(OsString::from).into_iter().chain([path.into()]);
    let arguments = arguments.chain(command.iter().map(OsString::from));
    match leasehold::Cli::new().check(arguments, environment) {
        Ok(()) => {}
        Err(Failure::Setting(bad)) => {
            for bad in bad.iter() {
                let why = bad.to_string();
                assert!(why.len() > 10 && !why.contains('\n'), "a setting is refused with {why:?}");
            }
        }
        Err(other) => assert!(!other.to_string().is_empty(), "refused without a word"),
    }
}

fn pair(line: &[u8]) -> Option<(OsString, OsString)> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    // What no environment can hold, and what names other files of this machine.
    let fits = at > 0
        && !line.contains(&0)
        && !line[..at].ends_with(b"_FILE")
        && !line.starts_with(b"LEASEHOLD_CONFIG");
    fits.then(|| (OsString::from_vec(line[..at].to_vec()), OsString::from_vec(line[at + 1..].to_vec())))
}
