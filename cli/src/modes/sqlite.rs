//! `sqlite`: one file, several processes on one host.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lease_core::InvalidSettings;
use lease_settings::{BadSetting, Block, LeaseStore, Millis, Mode, Section, Setting, Settings, ValueKind};
use lease_sqlite::{Sqlite as Backend, SqliteConfig};
use lease_worker_common::database::check_path;
use serde::Deserialize;

pub(super) struct SqliteMode;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    path: PathBuf,
    busy_timeout_ms: Millis,
    history_retention_days: Option<u64>,
}

const PATH: ValueKind = ValueKind::Parsed {
    name: "path",
    check: |text| check_path(text).map_err(|problem| format!("{problem}; {ALLOWED}")),
    allowed: ALLOWED,
};

const ALLOWED: &str = "use a path, for example /var/lib/leasehold/leases.sqlite";

impl Block for Config {
    const SECTION: Section = Section {
        name: "leaderElection.sqlite",
        about: "mode sqlite: one file, several processes on one host",
        settings: &[
            Setting::new(
                "path",
                "SPENDGUARD_LEADER_SQLITE_PATH",
                PATH,
                "the lease file, on a local disk, the same for all candidates",
            )
            // One place for everybody on the host: a default that depended on the user or on the working directory
            // would let two lead.
            .default("/var/lib/leasehold/leases.sqlite")
            .flag("sqlite-path"),
            Setting::new(
                "busyTimeoutMs",
                "SPENDGUARD_LEADER_SQLITE_BUSY_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 60_000 },
                "how long a write waits for the file's lock; below the shortest ttl",
            )
            .default("1000"),
            Setting::new(
                "historyRetentionDays",
                "SPENDGUARD_LEADER_SQLITE_HISTORY_RETENTION_DAYS",
                ValueKind::Integer { min: 1, max: 36_500 },
                "how many days history rows are kept",
            )
            .unset("as it is in the file; 90 at first"),
        ],
    };
}

impl Mode for SqliteMode {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<LeaseStore, BadSetting> {
        let set = settings.block::<Config>()?;
        let refuse = |key, error: InvalidSettings| settings.refuse::<Config>(key, error.why);
        let mut config = SqliteConfig::new(set.path)
            .map_err(|error| refuse("path", error))?
            .busy_timeout(set.busy_timeout_ms.into())
            .map_err(|error| refuse("busyTimeoutMs", error))?;
        if let Some(days) = set.history_retention_days {
            config = config
                .history_retention(Duration::from_secs(days * 86_400))
                .map_err(|error| refuse("historyRetentionDays", error))?;
        }
        let file = config.path().to_owned();
        if !is_database(&file) {
            let why = "this is not an SQLite database; choose another path for the leases".to_owned();
            return Err(settings.refuse::<Config>("path", why));
        }
        let description = format!("sqlite file {}", file.display());
        let advice = "check that its folder is on a local disk and writable for this user, and that no other program \
                      keeps the file locked";
        let (prepared, described) = (config.clone(), description.clone());
        Ok(LeaseStore::new("sqlite", description, advice, Backend::connector(config))
            .in_file(file)
            .prepared_by(move || {
                let (config, described) = (prepared.clone(), described.clone());
                async move { Backend::connect(config).await.map(|_| format!("{described} is ready")) }
            }))
    }
}

/// Is it a database, empty, or not there? To be asked before this process uses the file: to close it drops the process's
/// locks on it.
fn is_database(file: &Path) -> bool {
    let mut begins = [0; 16];
    let read = File::open(file).and_then(|mut file| file.read(&mut begins));
    read.map_or(true, |bytes| bytes == 0 || begins == *b"SQLite format 3\0")
}
