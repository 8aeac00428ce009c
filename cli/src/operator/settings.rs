//! The settings of the operator's commands.

use lease_settings::{Block, Millis, Secret, Section, Setting, ValueKind};
use lease_worker_common::database::Database;
use serde::Deserialize;

/// The operator's commands.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operator {
    /// The longest time for one call to the store.
    pub(crate) timeout_ms: Millis,
    /// The database whose fence `leasehold fence lower` repairs.
    pub(crate) fence_database_url: Option<Secret>,
}

impl Block for Operator {
    const SECTION: Section = Section {
        name: "operator",
        about: "the operator's commands",
        settings: &[
            Setting::new(
                "timeoutMs",
                "LEASEHOLD_OPERATOR_TIMEOUT_MS",
                ValueKind::Millis { min: 1, max: 3_600_000 },
                "how long an operator's command waits for one answer of the store",
            )
            .default("10000")
            .flag("timeout"),
            Setting::new(
                "fenceDatabaseUrl",
                "LEASEHOLD_FENCE_DATABASE_URL",
                Database::KIND,
                "the database whose fence `leasehold fence lower` repairs: sqlite:PATH or postgres://…",
            )
            .flag("fence-database-url")
            .secret()
            .or_file(
                "fenceDatabaseUrlFile",
                "LEASEHOLD_FENCE_DATABASE_URL_FILE",
                "fence-database-url-file",
            ),
        ],
    };
}
