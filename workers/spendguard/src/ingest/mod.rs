//! `canonical-ingest`: receives audit events, each any number of times, and keeps each once.
//!
//! Each request carries the forwarder's term, which is admitted in the same transaction as its events (F-1): what a
//! replaced leader still sends is refused with 409 `FENCING_EPOCH_STALE`.

pub(crate) mod http;
mod metrics;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_settings::{App, Block, Failure, Millis, Secret, Section, Setting, Together, ValueKind};
use lease_worker_common::{
    Role,
    access::Callers,
    database::Database,
    health::{self, HealthSettings, LAST_ANSWERS, Probe},
    listener::ListenerSettings,
    server::{RoleServer, WireProtocol},
    shutdown, stdout,
    tls::{ServerTls, Spoken},
    under_way::UnderWay,
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::info;

use crate::canonical::{self, Canonical};

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestSettings {
    database_url: Option<Secret>,
    max_body_bytes: usize,
    max_requests: u32,
    request_timeout_ms: Millis,
}

impl Block for IngestSettings {
    const SECTION: Section = Section {
        name: "canonicalIngest",
        about: "worker canonical-ingest",
        settings: &[
            Setting::new(
                "databaseUrl",
                "LEASEHOLD_CANONICAL_INGEST_DATABASE_URL",
                Database::KIND,
                "the database that keeps canonical_events",
            )
            .flag("canonical-url")
            .secret()
            .or_file(
                "databaseUrlFile",
                "LEASEHOLD_CANONICAL_INGEST_DATABASE_URL_FILE",
                "canonical-url-file",
            ),
            Setting::new(
                "maxBodyBytes",
                "LEASEHOLD_CANONICAL_INGEST_MAX_BODY_BYTES",
                ValueKind::Integer { min: 1_024, max: 1 << 30 },
                "the largest request",
            )
            .default("8388608")
            .flag("max-body-bytes"),
            Setting::new(
                "maxRequests",
                "LEASEHOLD_CANONICAL_INGEST_MAX_REQUESTS",
                ValueKind::Integer { min: 1, max: 1_000 },
                "how many requests may be under way at once; others are told to come back",
            )
            .default("16")
            .flag("max-requests"),
            Setting::new(
                "requestTimeoutMs",
                "LEASEHOLD_CANONICAL_INGEST_REQUEST_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 3_600_000 },
                "the longest time for one request",
            )
            .default("8000")
            .flag("request-timeout"),
            Setting::new(
                "tlsCertFile",
                "LEASEHOLD_CANONICAL_INGEST_TLS_CERT_FILE",
                ValueKind::Path,
                "the server's certificate chain, PEM; set it and the key for TLS, which the pages then speak too",
            )
            .unset("no TLS")
            .flag("ingest-tls-cert-file"),
            Setting::new(
                "tlsKeyFile",
                "LEASEHOLD_CANONICAL_INGEST_TLS_KEY_FILE",
                ValueKind::Path,
                "the certificate's private key, PEM",
            )
            .unset("no TLS")
            .flag("ingest-tls-key-file"),
            Setting::new(
                "tlsClientCaFile",
                "LEASEHOLD_CANONICAL_INGEST_TLS_CLIENT_CA_FILE",
                ValueKind::Path,
                "the authority that signs forwarders' certificates, PEM; the pages need none",
            )
            .unset("clients need no certificate")
            .flag("ingest-tls-client-ca-file"),
            Setting::new(
                "accessFile",
                "LEASEHOLD_CANONICAL_INGEST_ACCESS_FILE",
                ValueKind::Path,
                "the callers and what each may do, TOML: see docs/access.md",
            )
            .unset("every caller may send events of every tenant")
            .flag("ingest-access-file"),
            Setting::new(
                "listenWithoutAuthentication",
                "LEASEHOLD_CANONICAL_INGEST_LISTEN_WITHOUT_AUTHENTICATION",
                ValueKind::Bool,
                "listen beyond loopback although nobody has to show who they are",
            )
            .default("false")
            .flag("ingest-listen-without-authentication"),
        ],
    };
}

/// Receive audit events, idempotently
#[derive(Debug, clap::Args)]
pub struct IngestArgs {
    /// Create the tables and exit (SQLite makes them by itself)
    #[arg(long)]
    migrate: bool,
}

/// The role `canonical-ingest`.
pub struct CanonicalIngest;

impl Role for CanonicalIngest {
    type Arguments = IngestArgs;
    const NAME: &'static str = "canonical-ingest";
    const SECTIONS: &'static [Section] = &[IngestSettings::SECTION];

    fn run(&self, args: &IngestArgs, app: &App) -> Result<ExitCode, Failure> {
        let settings = app.settings();
        let role: IngestSettings = settings.block()?;
        let database = settings.parsed::<IngestSettings, Database>(
            "databaseUrl",
            role.database_url.as_ref().map(Secret::expose),
        );
        if args.migrate {
            let (database, _) = (database, settings.leader_election()).together()?;
            return app.block_on(async {
                migrate(&database).await?;
                stdout::line(format_args!("the canonical store in {database} is ready"))?;
                Ok(ExitCode::SUCCESS)
            });
        }
        let listen = settings.block::<HealthSettings>()?.listen;
        let listener: ListenerSettings<IngestSettings> = settings.block()?;
        // Probes have no certificate; a request's caller is judged by what it shows.
        let spoken = Spoken { protocol: b"http/1.1", clients_may_have_none: true };
        let (database, tls, access, election) = (
            database,
            ServerTls::of(settings, &listener, spoken),
            Callers::of(settings, &listener, &listen, |why| settings.refuse::<HealthSettings>("listen", why)),
            settings.leader_election(),
        )
            .together()?;
        let stop_budget = election.stop_budget_ms.into();
        let plan = IngestPlan { database, tls, access, listen, stop_budget, role };
        app.block_on(work(plan))
    }
}

/// The role's settings, checked.
struct IngestPlan {
    database: Database,
    role: IngestSettings,
    tls: Option<ServerTls>,
    access: Callers,
    listen: String,
    stop_budget: Duration,
}

/// Creates the tables.
async fn migrate(database: &Database) -> anyhow::Result<()> {
    let failed = |error| anyhow::anyhow!("the canonical store in {database} could not be prepared: {error}");
    let store = canonical::open(database, true, 1, Duration::from_secs(60)).await.map_err(failed)?;
    store.migrate().await.map_err(failed)
}

async fn work(plan: IngestPlan) -> Result<ExitCode, Failure> {
    let IngestPlan { database, role, tls, access, listen, stop_budget } = plan;
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics(CanonicalIngest::NAME, health::NO_LEASE)?;
    metrics::start();
    if database.file().is_some() {
        migrate(&database).await?;
    }
    let time_limit: Duration = role.request_timeout_ms.into();
    let store = canonical::open(&database, false, role.max_requests, time_limit).await.map_err(|error| {
        Failure::new(format!("the canonical store in {database} can't be opened: {error}"))
    })?;
    let ingest = http::Ingest {
        store: store.clone(),
        access,
        permits: Semaphore::new(role.max_requests as usize),
        max_body_bytes: role.max_body_bytes,
        time_limit,
        under_way: UnderWay::default(),
    };
    let under_way = ingest.under_way.clone();
    let health = health::router(pages, Arc::new(Health(store)), stop.clone());
    let router = http::router(Arc::new(ingest)).merge(health);
    let (listener, address) = health::listen(&listen, "--listen").await?;
    info!(%address, tls = tls.is_some(), %database, "canonical-ingest started");
    let mut server = RoleServer::start_with(listener, router, WireProtocol::Http, tls);
    stop.cancelled().await;
    // New requests are told to come back; those that have begun get an answer.
    under_way.close();
    let then = "their forwarders send the events again, and each is kept once";
    under_way.drained(stop_budget, then).await?;
    server.close(stop_budget.min(LAST_ANSWERS)).await;
    info!("canonical-ingest stopped");
    Ok(ExitCode::SUCCESS)
}

struct Health(Arc<dyn Canonical>);

#[async_trait]
impl Probe for Health {
    async fn ready(&self) -> Result<(), String> {
        self.0.ping().await.map_err(|error| format!("the canonical store can't be used: {error}"))
    }
}
