//! The real binary, in an environment and a folder of its own.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

pub(crate) struct Leasehold {
    pub(crate) folder: TempDir,
    environment: Vec<(String, String)>,
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Leasehold {
    /// With no settings at all.
    pub(crate) fn bare() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), environment: Vec::new() }
    }

    /// With a lease file that isn't there yet.
    pub(crate) fn sqlite() -> Self {
        let this = Self::bare();
        let path = this.path("leases.db");
        this.with("SPENDGUARD_LEADER_SQLITE_PATH", &path)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a file into the folder.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.folder.path().join(name), content).expect("written");
        self.path(name)
    }

    pub(crate) fn binary() -> &'static Path {
        Path::new(env!("CARGO_BIN_EXE_leasehold"))
    }

    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        own.chain([("LEASEHOLD_WORKLOAD_ID", "tester"), ("USER", "op")])
    }

    pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Command {
        let mut command = Command::new(Self::binary());
        command.args(args).env_clear().envs(self.environment()).current_dir(self.folder.path());
        command
    }

    pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(&self, args: &[A]) -> Ran {
        ran(&mut self.command(args))
    }

    /// The names in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn ran(command: &mut Command) -> Ran {
    let output = command.output().expect("the binary starts");
    Ran {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ran {
    /// Refused as bad input: exit code 2, one line on standard error that has all `parts`, nothing else.
    #[track_caller]
    pub(crate) fn refused(&self, parts: &[&str]) {
        let Self { code, out, err } = self;
        assert_eq!(*code, 2, "exit code; stdout: {out} stderr: {err}");
        assert_eq!(out, "", "nothing on standard output");
        assert!(err.starts_with("error: ") && err.trim_end().lines().count() == 1, "one message: {err}");
        assert!(!err.contains("hunter2"), "a secret is shown: {err}");
        for part in parts {
            assert!(err.contains(part), "{part:?} is missing in: {err}");
        }
    }

    /// Refused as bad input: exit code 2 and one line for each of `settings`, in this order, which has all its parts.
    #[track_caller]
    pub(crate) fn refused_all(&self, settings: &[&[&str]]) {
        let Self { code, out, err } = self;
        assert_eq!(*code, 2, "exit code; stdout: {out} stderr: {err}");
        assert!(!err.contains("hunter2"), "a secret is shown: {err}");
        assert_eq!(err.lines().count(), settings.len(), "lines: {err}");
        for (line, parts) in err.lines().zip(settings) {
            let has_all = line.starts_with("error: ") && parts.iter().all(|part| line.contains(part));
            assert!(has_all, "{parts:?} in: {line}");
        }
    }

    /// Failed with exit code 1 and a message with all `parts`.
    #[track_caller]
    pub(crate) fn failed(&self, parts: &[&str]) {
        let Self { code, out, err } = self;
        assert_eq!(*code, 1, "exit code; stdout: {out} stderr: {err}");
        assert!(!err.contains("hunter2"), "a secret is shown: {err}");
        for part in parts {
            assert!(err.contains(part), "{part:?} is missing in: {err}");
        }
    }

    /// Went well; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "exit code; stdout: {} stderr: {}", self.out, self.err);
        &self.out
    }

    /// Went well; the lines of JSON that it printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }
}
