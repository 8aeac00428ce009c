//! `postgres`: a schema in a PostgreSQL database.

use std::time::Duration;

use lease_core::InvalidSettings;
use lease_postgres::{Postgres as Backend, PostgresConfig};
use lease_settings::{
    BadSetting, Block, LeaseStore, Millis, Mode, Secret, Section, Setting, Settings, ValueKind,
};
use serde::Deserialize;

pub(super) struct PostgresMode;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    url: Option<Secret>,
    listen_url: Option<Secret>,
    schema: String,
    pool_size: u32,
    lock_timeout_ms: Millis,
    history_retention_days: Option<u64>,
    require_synchronous_replication: bool,
}

const CAUTION: &str = "where a standby may be promoted, a lease without a fence excludes others only if replication \
    is synchronous; set leaderElection.postgres.requireSynchronousReplication = true to have that checked";

const URL: ValueKind = ValueKind::Parsed {
    name: "database",
    check: |text| lease_postgres::url::parse(text).map(drop),
    allowed: lease_postgres::url::USE,
};

/// A name that needs no quotes, and leaves room for what is made of it.
fn is_schema(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=40).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
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
                URL,
                "the database's URL",
            )
            .secret()
            .flag("postgres-url")
            .or_file("urlFile", "SPENDGUARD_LEADER_POSTGRES_URL_FILE", "postgres-url-file"),
            Setting::new(
                "schema",
                "SPENDGUARD_LEADER_POSTGRES_SCHEMA",
                ValueKind::Checked {
                    check: is_schema,
                    allowed: "use 1 to 40 characters of a-z, 0-9 and '_', not beginning with a digit",
                },
                "the schema that holds the lease tables",
            )
            .default("public")
            .flag("postgres-schema"),
            Setting::new(
                "listenUrl",
                "SPENDGUARD_LEADER_POSTGRES_LISTEN_URL",
                URL,
                "the URL of the server itself, where url is a pooler's that would lose notifications",
            )
            .secret()
            .unset("url")
            .flag("postgres-listen-url")
            .or_file(
                "listenUrlFile",
                "SPENDGUARD_LEADER_POSTGRES_LISTEN_URL_FILE",
                "postgres-listen-url-file",
            ),
            Setting::new(
                "poolSize",
                "SPENDGUARD_LEADER_POSTGRES_POOL_SIZE",
                ValueKind::Integer { min: 2, max: 100 },
                "how many connections may be open",
            )
            .default("4"),
            Setting::new(
                "lockTimeoutMs",
                "SPENDGUARD_LEADER_POSTGRES_LOCK_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 60_000 },
                "after how long the server gives up a statement that waits for a lock; below the shortest ttl",
            )
            .default("1000"),
            Setting::new(
                "historyRetentionDays",
                "SPENDGUARD_LEADER_POSTGRES_HISTORY_RETENTION_DAYS",
                ValueKind::Integer { min: 1, max: 36_500 },
                "how many days history rows are kept; written by init and migrate-schema",
            )
            .unset("as it is in the schema; 90 at first"),
            Setting::new(
                "requireSynchronousReplication",
                "SPENDGUARD_LEADER_POSTGRES_REQUIRE_SYNCHRONOUS_REPLICATION",
                ValueKind::Bool,
                "refuse a server that doesn't wait for a synchronous standby",
            )
            .default("false"),
        ],
    };
}

impl Mode for PostgresMode {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<LeaseStore, BadSetting> {
        let set = settings.block::<Config>()?;
        let url = settings.required::<Config, _>("url", set.url)?;
        let refuse = |key| move |error: InvalidSettings| settings.refuse::<Config>(key, error.why);
        let mut config = PostgresConfig::new(url.expose())
            .map_err(refuse("url"))?
            .schema(&set.schema)
            .map_err(refuse("schema"))?
            .pool_size(set.pool_size)
            .map_err(refuse("poolSize"))?
            .lock_timeout(set.lock_timeout_ms.into())
            .map_err(refuse("lockTimeoutMs"))?
            .require_synchronous_replication(set.require_synchronous_replication);
        if let Some(listen) = set.listen_url {
            config = config.listen_url(listen.expose()).map_err(refuse("listenUrl"))?;
        }
        if let Some(days) = set.history_retention_days {
            let period = Duration::from_secs(days * 86_400);
            config = config.history_retention(period).map_err(refuse("historyRetentionDays"))?;
        }
        let description = format!("{}, schema {}", url.redacted(), set.schema);
        let advice = "check that the server runs, that host, port, user and password are right, and that no firewall \
                      or NetworkPolicy is in the way";
        let (prepared, described) = (config.clone(), description.clone());
        let mut store = LeaseStore::new("postgres", description, advice, Backend::connector(config));
        if !set.require_synchronous_replication {
            store = store.cautioned(CAUTION);
        }
        Ok(store.prepared_by(move || {
            let (config, described) = (prepared.clone(), described.clone());
            async move {
                let version = lease_postgres::migrate(&config).await?;
                Ok(format!("{described}: the lease tables are at version {version}"))
            }
        }))
    }
}
