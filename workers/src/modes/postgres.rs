//! `postgres`: a schema in a PostgreSQL database.

use serde::Deserialize;

use super::{Mode, Store};
use crate::settings::{BadSetting, Block, Kind, Secret, Section, Setting, Settings};

pub(super) struct Postgres;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    url: Option<Secret>,
    schema: String,
}

/// A name that needs no quotes.
fn is_schema(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(fine)
}

impl Block for Config {
    const SECTION: Section = Section {
        name: "leaderElection.postgres",
        about: "mode postgres: a schema in a PostgreSQL database",
        settings: &[
            Setting::new(
                "url",
                "SPENDGUARD_LEADER_POSTGRES_URL",
                Kind::Url(&["postgres", "postgresql"]),
                "the database; as a flag its password can be seen by every user of the machine",
            )
            .secret()
            .flag("postgres-url")
            .or_file("urlFile", "SPENDGUARD_LEADER_POSTGRES_URL_FILE", "postgres-url-file"),
            Setting::new(
                "schema",
                "SPENDGUARD_LEADER_POSTGRES_SCHEMA",
                Kind::Checked {
                    check: is_schema,
                    allowed: "use 1 to 63 characters of a-z, 0-9 and '_', not beginning with a digit",
                },
                "the schema that holds the lease tables",
            )
            .default("public")
            .flag("postgres-schema"),
        ],
    };
}

impl Mode for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<Store, BadSetting> {
        let config = settings.block::<Config>()?;
        let url = settings.required::<Config, _>("url", config.url)?;
        let description = format!("{}, schema {}", url.redacted(), config.schema);
        let advice = "check that the server runs, that the host, port, user and password are right and that a \
                      firewall or NetworkPolicy lets this machine through";
        Ok(Store::new("postgres", description, advice, || async {
            Err(lease_core::BackendError::refused("mode postgres is not connected in this build yet"))
        }))
    }
}
