//! `sqlite`: one file, several processes on one host.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Mode, Store};
use crate::settings::{BadSetting, Block, Kind, Section, Setting, Settings};

pub(super) struct Sqlite;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    path: Option<PathBuf>,
}

impl Block for Config {
    const SECTION: Section = Section {
        name: "leaderElection.sqlite",
        about: "mode sqlite: one file, several processes on one host",
        settings: &[Setting::new(
            "path",
            "SPENDGUARD_LEADER_SQLITE_PATH",
            Kind::Path,
            "the file of the leases, on a local disk, the same for all candidates",
        )
        .flag("sqlite-path")],
    };
}

impl Mode for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<Store, BadSetting> {
        let path = settings.required::<Config, _>("path", settings.block::<Config>()?.path)?;
        let description = format!("sqlite file {}", path.display());
        let advice = "check that its folder exists, is on a local disk and is writable for this user";
        Ok(Store::new("sqlite", description, advice, || async {
            Err(lease_core::BackendError::refused("mode sqlite is not connected in this build yet"))
        }))
    }
}
