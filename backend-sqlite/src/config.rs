//! Where the leases live, checked before anything starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lease_core::InvalidSettings;
use rustix::fs::{Access, access};

/// The settings of one lease file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The lease file; created if it doesn't exist, its folder must. Nothing else may live in it.
    pub path: PathBuf,
    /// History rows older than this are removed when a newer one is written. Whole seconds. Default: 90 days. Of the
    /// processes that share a file, the one that opened it last decides.
    pub history_retention: Duration,
    /// How long a write waits for the file's lock while other processes write. Default: 1 s; what doesn't get it by
    /// then was certainly not applied.
    pub busy_timeout: Duration,
}

impl SqliteConfig {
    /// The defaults, for the lease file at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            history_retention: Duration::from_secs(90 * 24 * 60 * 60),
            busy_timeout: Duration::from_secs(1),
        }
    }

    /// Refuses what could not work, before anything is opened.
    pub fn validate(&self) -> Result<(), InvalidSettings> {
        check_path(&self.path).map_err(|why| InvalidSettings {
            setting: "path",
            value: self.path.display().to_string(),
            why,
        })?;
        let century = Duration::from_secs(100 * 366 * 24 * 60 * 60);
        in_range("history_retention", self.history_retention, Duration::from_secs(1), century)?;
        in_range("busy_timeout", self.busy_timeout, Duration::from_millis(1), Duration::from_secs(60))
    }
}

fn in_range(
    setting: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), InvalidSettings> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let why = format!("use {} to {} ms", least.as_millis(), most.as_millis());
    Err(InvalidSettings { setting, value: format!("{} ms", value.as_millis()), why })
}

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
        Ok(_) if access(path, Access::READ_OK | Access::WRITE_OK).is_err() => {
            return Err(
                "this process may not read and write the file; allow it, or choose another path".into()
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
        Ok(_) => Ok(()),
    }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
