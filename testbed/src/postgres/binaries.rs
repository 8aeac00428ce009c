//! The places of PostgreSQL's programs, and the user that runs them.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, bail};

use crate::{
    process::find_program,
    supervisor::{Ending, supervisor},
};

/// The oldest version that has every feature that is used here (`drop database … with (force)`).
const OLDEST: u32 = 13;

/// PostgreSQL's programs, all of one version.
#[derive(Clone, Debug)]
pub(super) struct PostgresBinaries {
    folder: PathBuf,
    /// As in `15.18`.
    pub(super) version: String,
    pub(super) user: User,
}

/// PostgreSQL refuses to run as root; then an unprivileged user of the system runs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct User(Option<(u32, u32)>);

// === impl Binaries ===

impl PostgresBinaries {
    /// Those of this machine; searched for once.
    pub(super) fn find() -> anyhow::Result<Self> {
        static FOUND: OnceLock<Result<PostgresBinaries, String>> = OnceLock::new();
        let found = FOUND.get_or_init(|| Self::look().map_err(|error| format!("{error:#}")));
        found.clone().map_err(anyhow::Error::msg)
    }

    fn look() -> anyhow::Result<Self> {
        let folder = find_folder().context(
            "PostgreSQL's server programs (initdb, postgres, pg_basebackup, psql) were not found on PATH nor in the \
             usual folders: install them (Debian and Ubuntu: `apt-get install postgresql`; Fedora: `dnf install \
             postgresql-server`; macOS: `brew install postgresql`), or name a running server in \
             LEASEHOLD_TEST_POSTGRES_URL",
        )?;
        let postgres = folder.join("postgres");
        let output = Command::new(&postgres).arg("--version").output();
        let output = output.with_context(|| format!("cannot run {}", postgres.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version =
            text.split_whitespace().nth(2).with_context(|| format!("no version in {text:?}"))?.to_owned();
        if major(&version).is_some_and(|major| major < OLDEST) {
            bail!("{} is version {version}: install PostgreSQL {OLDEST} or newer", postgres.display());
        }
        Ok(Self { folder, version, user: User::unprivileged()? })
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// A supervised command that runs as the unprivileged user.
    pub(super) fn command(&self, program: &str, ending: Ending, folder: &Path) -> anyhow::Result<Command> {
        let mut command = supervisor()?.command(&self.path(program), ending)?;
        command.current_dir(folder).env("LC_ALL", "C");
        if let User(Some((uid, gid))) = self.user {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }
}

// === impl User ===

impl User {
    fn unprivileged() -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        for name in ["postgres", "nobody"] {
            for line in passwd.lines() {
                let mut fields = line.split(':');
                if fields.next() == Some(name)
                    && let (Some(uid), Some(gid)) = (fields.nth(1), fields.next())
                {
                    return Ok(Self(Some((uid.parse()?, gid.parse()?))));
                }
            }
        }
        bail!(
            "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it: add one"
        )
    }

    /// Writes a file that this user owns.
    pub(super) fn write(self, path: &Path, text: &str) -> anyhow::Result<()> {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        self.own(path)
    }

    /// Gives a file or folder to that user.
    pub(super) fn own(self, path: &Path) -> anyhow::Result<()> {
        if let Self(Some((uid, gid))) = self {
            chown(path, Some(uid), Some(gid)).with_context(|| {
                format!("cannot give {} to the user that runs PostgreSQL", path.display())
            })?;
        }
        Ok(())
    }
}

/// The folder behind `initdb` on PATH (a link leads to the folder that has the other programs as well), else
/// the newest of the usual ones.
fn find_folder() -> Option<PathBuf> {
    let on_path = find_program(Path::new("initdb"))
        .and_then(|path| path.canonicalize().ok())
        .and_then(|path| path.parent().map(Path::to_owned));
    on_path.into_iter().chain(usual_folders()).find(|folder| {
        ["initdb", "postgres", "pg_basebackup", "psql"].iter().all(|program| folder.join(program).is_file())
    })
}

fn major(version: &str) -> Option<u32> {
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

fn usual_folders() -> Vec<PathBuf> {
    let parents = [
        ("/usr/lib/postgresql", "bin"), // Debian
        ("/usr", "bin"),                // Red Hat: /usr/pgsql-17/bin
        ("/opt/homebrew/opt", "bin"),   // macOS: postgresql@17/bin
        ("/usr/local/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, bin) in parents {
        for entry in std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let version = name.trim_start_matches("pgsql-").trim_start_matches("postgresql@");
            if let Some(version) = major(version) {
                found.push((version, entry.path().join(bin)));
            }
        }
    }
    found.push((0, PathBuf::from("/usr/local/pgsql/bin")));
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, folder)| folder).collect()
}
