//! The settings' own table, and the command line as a function.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use lease_settings::Failure;
use leasehold::Cli;
use serde::Deserialize;
use tempfile::TempDir;

/// One setting, as `leasehold config --json` shows it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) env: String,
    pub(crate) flag: Option<String>,
    pub(crate) kind: String,
    pub(crate) secret: bool,
}

/// All settings that there are.
pub(crate) fn rows() -> Vec<Row> {
    #[derive(Deserialize)]
    struct Config {
        settings: Vec<Row>,
    }
    let folder = TempDir::new().expect("a folder");
    let (code, out, err) = run(&folder, &["--sqlite-path", "leases.db", "config", "--json"], &[]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str::<Config>(&out).expect("json").settings
}

/// The real binary: its exit code, and what it printed.
pub(crate) fn run(folder: &TempDir, args: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    command.args(args).env_clear().env("LEASEHOLD_WORKLOAD_ID", "tester").envs(environment.iter().copied());
    let done = command.current_dir(folder.path()).output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().expect("an exit code"), text(&done.stdout), text(&done.stderr))
}

/// Reads a command line as the binary would; the message if it is refused, which must be as bad input.
pub(crate) fn refusal(args: &[&str], environment: &[(&str, &str)]) -> Option<String> {
    let arguments = ["leasehold"].iter().chain(args).map(OsString::from).collect::<Vec<_>>();
    let environment: BTreeMap<_, _> = [("LEASEHOLD_WORKLOAD_ID", "tester")]
        .iter()
        .chain(environment)
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    let checked = catch_unwind(AssertUnwindSafe(|| Cli::new().check(arguments, environment)));
    let failure = checked.unwrap_or_else(|_| panic!("it panicked")).err()?;
    assert!(matches!(failure, Failure::Setting(_) | Failure::Code(2, _)), "not exit code 2: {failure:?}");
    Some(format!("{failure}"))
}

/// Runs `check` for each item, on two threads.
pub(crate) fn for_each<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(item);
                }
            });
        }
    });
}
