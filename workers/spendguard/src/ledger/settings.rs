//! The ledger's settings.

use lease_postgres::url;
use lease_settings::{BadSetting, Block, Millis, Secret, Section, Setting, Settings as All, ValueKind};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerSettings {
    pub(super) database_url: Option<Secret>,
    /// The gRPC server's address.
    pub listen: String,
    /// The number of connections to the database that writes share.
    pub max_connections: u32,
    /// The most writes that may be under way or wait for a connection, and the most calls about scopes.
    pub max_requests: u32,
    /// The most calls that may wait for a scope.
    pub max_waiters: u32,
    /// The largest message.
    pub max_message_bytes: usize,
    /// The longest time for one call.
    pub call_timeout_ms: Millis,
    /// The polling interval of a scope that somebody waits for.
    pub await_poll_ms: Millis,
}

impl Block for LedgerSettings {
    const SECTION: Section = Section {
        name: "ledger",
        about: "worker ledger",
        settings: &[
            Setting::new(
                "databaseUrl",
                "LEASEHOLD_LEDGER_DATABASE_URL",
                POSTGRES,
                "the database that holds scopes, budgets, reservations and audit_outbox",
            )
            .flag("ledger-db-url")
            .secret()
            .or_file(
                "databaseUrlFile",
                "LEASEHOLD_LEDGER_DATABASE_URL_FILE",
                "ledger-db-url-file",
            ),
            Setting::new("listen", "LEASEHOLD_LEDGER_LISTEN", ValueKind::Address, "where the ledger serves gRPC")
                .default("127.0.0.1:50051")
                .flag("grpc-listen"),
            Setting::new(
                "tlsCertFile",
                "LEASEHOLD_LEDGER_TLS_CERT_FILE",
                ValueKind::Path,
                "the server's certificate chain, PEM; set it and the key for TLS",
            )
            .unset("no TLS")
            .flag("ledger-tls-cert-file"),
            Setting::new(
                "tlsKeyFile",
                "LEASEHOLD_LEDGER_TLS_KEY_FILE",
                ValueKind::Path,
                "the certificate's private key, PEM",
            )
            .unset("no TLS")
            .flag("ledger-tls-key-file"),
            Setting::new(
                "tlsClientCaFile",
                "LEASEHOLD_LEDGER_TLS_CLIENT_CA_FILE",
                ValueKind::Path,
                "the authority that signs clients' certificates, PEM; clients must then have one",
            )
            .unset("clients need no certificate")
            .flag("ledger-tls-client-ca-file"),
            Setting::new(
                "accessFile",
                "LEASEHOLD_LEDGER_ACCESS_FILE",
                ValueKind::Path,
                "the callers and what each may do, TOML: see docs/access.md",
            )
            .unset("every caller may do everything on loopback, everything but force and revoke elsewhere")
            .flag("ledger-access-file"),
            Setting::new(
                "listenWithoutAuthentication",
                "LEASEHOLD_LEDGER_LISTEN_WITHOUT_AUTHENTICATION",
                ValueKind::Bool,
                "listen beyond loopback although nobody has to show who they are",
            )
            .default("false")
            .flag("ledger-listen-without-authentication"),
            Setting::new(
                "maxConnections",
                "LEASEHOLD_LEDGER_MAX_CONNECTIONS",
                ValueKind::Integer { min: 1, max: 1_000 },
                "how many connections to the database writes share; four more are for fencing scopes alone, one for \
                 notifications",
            )
            .default("16")
            .flag("ledger-max-connections"),
            Setting::new(
                "maxRequests",
                "LEASEHOLD_LEDGER_MAX_REQUESTS",
                ValueKind::Integer { min: 1, max: 100_000 },
                "how many writes may be under way or wait for a connection, and how many calls about scopes; others are told \
                 to come back",
            )
            .default("256")
            .flag("ledger-max-requests"),
            Setting::new(
                "maxWaiters",
                "LEASEHOLD_LEDGER_MAX_WAITERS",
                ValueKind::Integer { min: 1, max: 100_000 },
                "how many calls may wait for a scope; others are told to come back",
            )
            .default("1024")
            .flag("ledger-max-waiters"),
            Setting::new(
                "maxMessageBytes",
                "LEASEHOLD_LEDGER_MAX_MESSAGE_BYTES",
                ValueKind::Integer { min: 1_024, max: 1 << 24 },
                "the largest message",
            )
            .default("65536")
            .flag("ledger-max-message-bytes"),
            Setting::new(
                "callTimeoutMs",
                "LEASEHOLD_LEDGER_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 600_000 },
                "the longest time for one call; a client's own deadline may be earlier",
            )
            .default("5000")
            .flag("ledger-call-timeout"),
            Setting::new(
                "awaitPollMs",
                "LEASEHOLD_LEDGER_AWAIT_POLL_MS",
                ValueKind::Millis { min: 10, max: 60_000 },
                "how often a scope that somebody waits for is looked at, besides notifications",
            )
            .default("1000")
            .flag("ledger-await-poll"),
        ],
    };
}

/// The ledger lives in Postgres only: a scope's row is locked while its effects are written.
pub(crate) const POSTGRES: ValueKind =
    ValueKind::Parsed { name: "database", check: |text| url::parse(text).map(drop), allowed: url::USE };

/// The database that the setting `key` names, which its role can't do without.
pub(crate) fn postgres<B: Block>(
    all: &All,
    key: &str,
    url: Option<&Secret>,
) -> Result<Box<PgConnectOptions>, BadSetting> {
    let url = all.required::<B, _>(key, url.map(Secret::expose))?;
    url::parse(url).map(Box::new).map_err(|why| all.refuse::<B>(key, why))
}
