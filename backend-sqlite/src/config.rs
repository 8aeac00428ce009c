//! Settings, checked before anything starts.

use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lease_core::InvalidSettings;
use rustix::fs::{Access, access};
use rustix::io::Errno;

/// The lease file's path, and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    pub(crate) path: PathBuf,
    pub(crate) busy_timeout: Duration,
    pub(crate) history_retention: Option<Duration>,
}

impl SqliteConfig {
    /// The lease file at `path`; [`connect`](crate::Sqlite::connect) creates it if it doesn't exist. A relative path
    /// is taken from the present working directory, now.
    ///
    /// # Errors
    /// Refused, because it could not work: no path, a URL, `:memory:`, a folder, a file or folder that this process may
    /// not write, a folder that doesn't exist.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, InvalidSettings> {
        let path = path.into();
        let refused = |why| InvalidSettings { setting: "path", value: path.display().to_string(), why };
        check_path(&path).map_err(refused)?;
        let path =
            std::path::absolute(&path).map_err(|error| refused(format!("it can't be used: {error}")))?;
        if path.as_os_str().len() > LONGEST {
            return Err(refused(format!("SQLite takes at most {LONGEST} bytes; choose a shorter path")));
        }
        Ok(Self { path, busy_timeout: Duration::from_secs(5), history_retention: None })
    }

    /// The time that a write waits its turn while others write to the file; 5 s unless set. A write that hasn't begun
    /// by then was certainly not applied. Whoever drops the write before leaves nothing waiting.
    ///
    /// # Errors
    /// Allowed are 10 ms to 60 s.
    pub fn busy_timeout(mut self, limit: Duration) -> Result<Self, InvalidSettings> {
        let allowed = Duration::from_millis(10)..=Duration::from_secs(60);
        let why = "use 10 ms to 60 s, for example 5 s";
        self.busy_timeout = checked("busy_timeout", limit, allowed, why)?;
        Ok(self)
    }

    /// The age at which history rows are deleted. Kept in the file, where the last process that sets it decides; 90
    /// days at first.
    ///
    /// # Errors
    /// Allowed are one hour to 100 years.
    pub fn history_retention(mut self, period: Duration) -> Result<Self, InvalidSettings> {
        let allowed = Duration::from_secs(3600)..=Duration::from_secs(100 * 366 * 86_400);
        let why = "use one hour to 100 years, for example 90 days";
        self.history_retention = Some(checked("history_retention", period, allowed, why)?);
        Ok(self)
    }

    /// Checked when it is opened, too: the world may have changed.
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        check_path(&self.path).map_err(|why| self.refused(why))
    }

    fn refused(&self, why: String) -> InvalidSettings {
        InvalidSettings { setting: "path", value: self.path.display().to_string(), why }
    }

    /// The lease file, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn checked(
    setting: &'static str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
    why: &str,
) -> Result<Duration, InvalidSettings> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    Err(InvalidSettings { setting, value: format!("{value:?}"), why: why.to_owned() })
}

/// As SQLite has it for Unix: 512 bytes, and room for the names beside it.
const LONGEST: usize = 504;

const EXAMPLE: &str = "for example /var/lib/leasehold/leases.sqlite";

fn check_path(path: &Path) -> Result<(), String> {
    let Some(text) = path.to_str() else {
        return Err("SQLite takes only paths that are valid UTF-8; choose another".into());
    };
    if text.is_empty() {
        return Err(format!("name the lease file, {EXAMPLE}"));
    }
    if text.contains(":memory:") {
        return Err(format!("processes can't share a database in memory; name a file, {EXAMPLE}"));
    }
    if text.starts_with("file:") || text.starts_with("sqlite:") || text.contains('\0') {
        return Err(format!("give a plain path, not a URL, {EXAMPLE}"));
    }
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            return Err(format!(
                "this is a folder; name a file in it, for example {}",
                path.join("leases.sqlite").display()
            ));
        }
        Ok(found) if !found.is_file() => return Err("this is no regular file; choose another path".into()),
        Ok(_) if !may_be_used(path) => {
            return Err(
                "this process may not read and write the file; allow it, or choose another path".into()
            );
        }
        Err(_) if text.ends_with('/') => {
            return Err(format!("this names a folder; name a file, {EXAMPLE}"));
        }
        Err(_) if path.is_symlink() => {
            return Err(
                "this is a link that leads to no file; correct the link, or choose another path".into()
            );
        }
        _ => {}
    }
    let folder = folder_of(path);
    match folder.metadata() {
        Err(error) => {
            Err(format!("its folder {} can't be used ({error}); create it first", folder.display()))
        }
        Ok(found) if !found.is_dir() => {
            Err(format!("{} is not a folder; choose another path", folder.display()))
        }
        Ok(_) if access(&folder, Access::WRITE_OK | Access::EXEC_OK).is_err() => Err(format!(
            "this process may not create files in {}, which SQLite must; allow it, or choose another path",
            folder.display()
        )),
        Ok(_) => check_entries(path),
    }
}

/// The file itself may be missing; what is in its place, or in that of a file beside it, must be usable.
fn check_entries(path: &Path) -> Result<(), String> {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = file.clone().into_os_string();
        name.push(suffix);
        let entry = PathBuf::from(name);
        match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{} can't be used: {error}", entry.display())),
            Ok(found) if found.is_file() && may_be_used(&entry) => {}
            Ok(_) => {
                let shown = entry.display();
                return Err(format!(
                    "SQLite can't use {shown} beside it: it must be a file that may be written"
                ));
            }
        }
    }
    Ok(())
}

/// Another process may remove it meanwhile, as SQLite's last connection does with the files beside its own.
fn may_be_used(file: &Path) -> bool {
    matches!(access(file, Access::READ_OK | Access::WRITE_OK), Ok(()) | Err(Errno::NOENT))
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
