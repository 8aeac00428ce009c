//! `outbox-forwarder`: N replicas, one of which leads and forwards the audit outbox to canonical-ingest.
//!
//! Delivery is at least once on the wire and exactly once at canonical-ingest. A leader that is killed at any point
//! loses nothing and doubles nothing: a row is pending until canonical-ingest has it, and canonical-ingest takes a
//! key once.

mod lead;
pub mod metrics;
mod sender;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_settings::{
    App, BadSettings, Block, Failure, LeaseStore, Millis, Secret, Section, Setting, Together, ValueKind,
    http_url, redacted,
};
use lease_worker_common::{
    Role,
    campaign::Campaign,
    credentials::{ClientFiles, Token, http_client_of},
    database::Database,
    eligible::Eligible,
    health::{self, Probe},
    lease_gauges::LeaseGauges,
    operate::HomeArgs,
    own_database::OwnDatabase,
    reloaded::Reloaded,
    server::RoleServer,
    shutdown, stdout,
    under_way::Batch,
};
use serde::Deserialize;
use tracing::info;
use url::Url;

use crate::DAYS;
use crate::outbox::{self, Outbox, RESOURCE};
use lead::Forwarder;
use sender::Sender;

/// The lease's name unless it is set: the role's own.
pub const LEASE: &str = OutboxForwarder::NAME;

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwarderSettings {
    outbox_url: Option<Secret>,
    ingest_url: Option<Secret>,
    ingest_token_file: Option<PathBuf>,
    ingest_ca_file: Option<PathBuf>,
    ingest_cert_file: Option<PathBuf>,
    ingest_key_file: Option<PathBuf>,
    batch_size: u32,
    poll_interval_ms: Millis,
    call_timeout_ms: Millis,
    retention_days: u32,
}

const INGEST_URL: &str = "use http://HOST:PORT/v1/events, or https:// over a network";

impl Block for ForwarderSettings {
    const SECTION: Section = Section {
        name: "outboxForwarder",
        about: "worker outbox-forwarder",
        settings: &[
            Setting::new(
                "outboxUrl",
                "LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL",
                Database::KIND,
                "the database that holds audit_outbox",
            )
            .flag("outbox-url")
            .secret()
            .or_file(
                "outboxUrlFile",
                "LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL_FILE",
                "outbox-url-file",
            ),
            Setting::new(
                "ingestUrl",
                "LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL",
                ValueKind::Parsed {
                    name: "url",
                    check: |text| http_url(text).map(drop).map_err(|problem| format!("{problem}; {INGEST_URL}")),
                    allowed: INGEST_URL,
                },
                "where canonical-ingest receives events, for example http://canonical-ingest:8080/v1/events",
            )
            .flag("ingest-url"),
            Setting::new(
                "ingestTokenFile",
                "LEASEHOLD_OUTBOX_FORWARDER_INGEST_TOKEN_FILE",
                ValueKind::Path,
                "a file with the bearer token that is shown to canonical-ingest",
            )
            .unset("no token is shown")
            .flag("ingest-token-file"),
            Setting::new(
                "ingestCaFile",
                "LEASEHOLD_OUTBOX_FORWARDER_INGEST_CA_FILE",
                ValueKind::Path,
                "the certificates that a canonical-ingest at https is checked against, PEM",
            )
            .unset("the system's")
            .flag("ingest-ca-file"),
            Setting::new(
                "ingestCertFile",
                "LEASEHOLD_OUTBOX_FORWARDER_INGEST_CERT_FILE",
                ValueKind::Path,
                "the certificate that the forwarder shows to canonical-ingest, PEM",
            )
            .unset("no certificate is shown")
            .flag("ingest-cert-file"),
            Setting::new(
                "ingestKeyFile",
                "LEASEHOLD_OUTBOX_FORWARDER_INGEST_KEY_FILE",
                ValueKind::Path,
                "the key of that certificate, PEM",
            )
            .unset("no certificate is shown")
            .flag("ingest-key-file"),
            Setting::new(
                "batchSize",
                "LEASEHOLD_OUTBOX_FORWARDER_BATCH_SIZE",
                ValueKind::Integer { min: 1, max: 10_000 },
                "the most rows in one batch",
            )
            .default("500")
            .flag("batch-size"),
            Setting::new(
                "pollIntervalMs",
                "LEASEHOLD_OUTBOX_FORWARDER_POLL_INTERVAL_MS",
                ValueKind::Millis { min: 1, max: 3_600_000 },
                "the pause when nothing is pending",
            )
            .default("250")
            .flag("poll-interval"),
            Setting::new(
                "callTimeoutMs",
                "LEASEHOLD_OUTBOX_FORWARDER_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 3_600_000 },
                "how long the outbox or canonical-ingest may take for one answer",
            )
            .default("10000")
            .flag("call-timeout"),
            Setting::new(
                "retentionDays",
                "LEASEHOLD_OUTBOX_FORWARDER_RETENTION_DAYS",
                DAYS,
                "how many days rows stay in the outbox once they are forwarded; their keys stay; 0 keeps them for ever",
            )
            .default("30")
            .flag("outbox-retention-days"),
        ],
    };
}

/// Forward the audit outbox to canonical-ingest, while leading
#[derive(Debug, clap::Args)]
pub struct ForwarderArgs {
    /// Create the outbox's tables and exit (SQLite makes them by itself)
    #[arg(long, conflicts_with_all = ["forget_home", "init_lease"])]
    migrate: bool,
    #[command(flatten)]
    home: HomeArgs,
}

/// The role `outbox-forwarder`.
pub struct OutboxForwarder;

impl Role for OutboxForwarder {
    type Arguments = ForwarderArgs;
    const NAME: &'static str = "outbox-forwarder";
    const SECTIONS: &'static [Section] = &[ForwarderSettings::SECTION];

    fn run(&self, args: &ForwarderArgs, app: &App) -> Result<ExitCode, Failure> {
        let settings = app.settings();
        let role: ForwarderSettings = settings.block()?;
        let outbox = settings
            .parsed::<ForwarderSettings, Database>("outboxUrl", role.outbox_url.as_ref().map(Secret::expose));
        if args.migrate {
            let (outbox, _) = (outbox, settings.leader_election()).together()?;
            return app.block_on(async {
                migrate(&outbox).await?;
                stdout::line(format_args!("the outbox in {outbox} is ready"))?;
                Ok(ExitCode::SUCCESS)
            });
        }
        if args.home.any() {
            let outbox = outbox?;
            return app.block_on(async {
                if outbox.file().is_some() {
                    migrate(&outbox).await?;
                }
                args.home.run(app, Self::NAME, &outbox, RESOURCE).await
            });
        }
        let ingest = settings
            .parsed::<ForwarderSettings, Url>("ingestUrl", role.ingest_url.as_ref().map(Secret::expose));
        let files = ClientFiles {
            keys: ["ingestCaFile", "ingestCertFile", "ingestKeyFile"],
            ca: role.ingest_ca_file.as_deref(),
            cert: role.ingest_cert_file.as_deref(),
            key: role.ingest_key_file.as_deref(),
        };
        let named = [files.ca, files.cert, files.key].into_iter().zip(files.keys);
        let plain = ingest.as_ref().is_ok_and(|ingest| ingest.scheme() != "https");
        let unused = named.filter(|(file, _)| file.is_some() && plain).map(|(_, key)| {
            let why = "canonical-ingest is not at https, so it would not be used: use an https:// ingestUrl, or remove it";
            settings.refuse::<ForwarderSettings>(key, why)
        });
        let token = role.ingest_token_file.as_deref();
        let (_, outbox, ingest, client, token, campaign) = (
            BadSettings::none_of(unused),
            outbox,
            ingest,
            http_client_of::<ForwarderSettings>(settings, &files, role.call_timeout_ms.into()),
            Token::of::<ForwarderSettings>(settings, "ingestTokenFile", token),
            Campaign::new(app, Self::NAME),
        )
            .together()?;
        let listen = settings.block::<health::HealthSettings>()?.listen;
        let plan = ForwarderPlan { outbox, client, token, ingest, listen, role };
        app.block_on(work(plan, campaign))
    }
}

/// The role's settings, checked.
struct ForwarderPlan {
    outbox: Database,
    ingest: Url,
    client: Reloaded<reqwest::Client>,
    token: Option<Token>,
    listen: String,
    role: ForwarderSettings,
}

/// Creates the outbox's tables.
async fn migrate(database: &Database) -> anyhow::Result<()> {
    let failed = |error| anyhow::anyhow!("the outbox in {database} could not be prepared: {error}");
    let outbox = outbox::open(database, true, Duration::from_secs(60)).await.map_err(failed)?;
    outbox.migrate().await.map_err(failed)
}

async fn work(plan: ForwarderPlan, campaign: Campaign<'_>) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics(OutboxForwarder::NAME, campaign.mode())?;
    metrics::start();
    if let Some(path) = plan.outbox.file() {
        let leases = campaign.store().and_then(LeaseStore::file);
        if leases.is_some_and(|leases| same_file(leases, path)) {
            // Bulk writes beside the leases would delay renewals until terms are lost.
            let why = format!(
                "the outbox can't be in the file of the leases, {}: give it one of its own by --outbox-url",
                path.display()
            );
            return Err(Failure::Code(2, why));
        }
        migrate(&plan.outbox).await?;
    }
    let outbox = outbox::open(&plan.outbox, false, campaign.transaction_limit())
        .await
        .map_err(|error| Failure::new(format!("the outbox in {} can't be opened: {error}", plan.outbox)))?;
    let forwarder = Forwarder {
        outbox: outbox.clone(),
        fleet: campaign.fleet(),
        sender: Sender {
            client: plan.client,
            token: plan.token,
            url: plan.ingest.clone(),
            lease: campaign.lease().clone(),
        },
        batch_size: plan.role.batch_size,
        poll_every: plan.role.poll_interval_ms.into(),
        retry_every: campaign.retry_every(),
        database: OwnDatabase {
            call_limit: plan.role.call_timeout_ms.into(),
            resource: "outbox",
            called: "the outbox",
            unavailable: metrics::OUTBOX_UNAVAILABLE,
        },
        keep_days: plan.role.retention_days,
        batch: Batch::default(),
    };
    let probe = Arc::new(Health { outbox, eligible: campaign.eligible(), lease: campaign.gauges() });
    let (listener, address) = health::listen(&plan.listen, "--listen").await?;
    let ingest = redacted(plan.ingest.as_str());
    info!(%address, outbox = %plan.outbox, ingest, lease = %campaign.lease(), "outbox-forwarder started");
    // Probes and scrapes are answered until the lease is given up.
    let server = RoleServer::start(listener, health::router(pages, probe, stop.clone()));
    campaign.run(&forwarder, stop).await?;
    drop(server);
    Ok(ExitCode::SUCCESS)
}

fn same_file(one: &Path, other: &Path) -> bool {
    let full = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    full(one).is_some() && full(one) == full(other)
}

struct Health {
    outbox: Arc<dyn Outbox>,
    eligible: Eligible,
    lease: Option<LeaseGauges>,
}

#[async_trait]
impl Probe for Health {
    async fn ready(&self) -> Result<(), String> {
        self.eligible.check()?;
        let ready = self.outbox.ready().await;
        ready.map_err(|error| format!("the outbox can't be used: {error}"))
    }

    async fn refresh(&self) {
        health::show_age(metrics::OLDEST_PENDING, self.outbox.oldest_pending_age()).await;
        self.lease.iter().for_each(LeaseGauges::show);
    }
}
