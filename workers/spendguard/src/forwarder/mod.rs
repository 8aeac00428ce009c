//! `outbox-forwarder`: N replicas, one of which leads and forwards the audit outbox to canonical-ingest.
//!
//! Delivery is at least once on the wire and exactly once at canonical-ingest. A leader that is killed at any point
//! loses nothing and doubles nothing: a row is pending until canonical-ingest has it, and canonical-ingest takes a
//! key once.

mod lead;
pub mod metrics;
mod sender;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::metrics::gauge;
use async_trait::async_trait;
use lease_core::LeaseName;
use lease_settings::{
    App, BadSetting, Block, Failure, Kind, LeaderElection, Millis, Secret, Section, Setting, Store, redacted,
};
use lease_worker_common::{
    Role,
    campaign::{self, Names},
    database::{Database, StoreError},
    health::{self, Probe, Server},
    shutdown,
    under_way::Batch,
};
use serde::Deserialize;
use tracing::info;
use url::Url;

use crate::DAYS;
use crate::outbox::{self, Outbox};
use lead::Forwarder;
use sender::Sender;

/// The lease's name unless it is set.
pub const LEASE: &str = "outbox-forwarder";

const NAMES: Names = Names { is_leader: metrics::IS_LEADER, leader_age: metrics::LEADER_AGE };

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    outbox_url: Option<Secret>,
    ingest_url: Option<String>,
    batch_size: u32,
    poll_interval_ms: Millis,
    call_timeout_ms: Millis,
    retention_days: u32,
}

impl Block for Settings {
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
                Kind::Url(&["http", "https"]),
                "where canonical-ingest receives events, for example http://canonical-ingest:8080/v1/events",
            )
            .flag("ingest-url"),
            Setting::new(
                "batchSize",
                "LEASEHOLD_OUTBOX_FORWARDER_BATCH_SIZE",
                Kind::Integer { min: 1, max: 10_000 },
                "the most rows in one batch",
            )
            .default("500")
            .flag("batch-size"),
            Setting::new(
                "pollIntervalMs",
                "LEASEHOLD_OUTBOX_FORWARDER_POLL_INTERVAL_MS",
                Kind::Millis { min: 1, max: 3_600_000 },
                "the pause when nothing is pending",
            )
            .default("250")
            .flag("poll-interval"),
            Setting::new(
                "callTimeoutMs",
                "LEASEHOLD_OUTBOX_FORWARDER_CALL_TIMEOUT_MS",
                Kind::Millis { min: 10, max: 3_600_000 },
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
pub struct Args {
    /// Create the outbox's tables and exit (SQLite makes them by itself)
    #[arg(long)]
    migrate: bool,
}

/// All that the role was told, checked.
struct Plan {
    outbox: Database,
    ingest: Url,
    listen: String,
    role: Settings,
    election: LeaderElection,
    store: Option<Store>,
}

impl Plan {
    fn of(app: &App) -> Result<Self, BadSetting> {
        let settings = app.settings();
        let role: Settings = settings.block()?;
        let outbox = settings.required::<Settings, _>("outboxUrl", role.outbox_url.clone())?;
        let ingest = settings.required::<Settings, _>("ingestUrl", role.ingest_url.clone())?;
        Ok(Self {
            outbox: outbox
                .expose()
                .parse()
                .map_err(|why: String| settings.refuse::<Settings>("outboxUrl", why))?,
            ingest: ingest
                .parse()
                .map_err(|why: url::ParseError| settings.refuse::<Settings>("ingestUrl", why.to_string()))?,
            listen: settings.block::<health::Settings>()?.listen,
            election: settings.leader_election()?,
            store: app.store()?,
            role,
        })
    }

    fn lease(&self) -> LeaseName {
        self.election.lease_name.clone().unwrap_or_else(|| LeaseName::new(LEASE).expect("a valid name"))
    }

    /// F-1's advice: a fenced transaction is over well before the ttl is.
    fn transaction_limit(&self) -> Duration {
        Duration::from(self.election.ttl_ms) / 2
    }

    fn retry_every(&self) -> Duration {
        self.election.retry_interval_ms.map_or(Duration::from(self.election.ttl_ms) / 15, Duration::from)
    }
}

/// The role `outbox-forwarder`.
pub struct OutboxForwarder;

impl Role for OutboxForwarder {
    type Arguments = Args;
    const NAME: &'static str = "outbox-forwarder";
    const SECTIONS: &'static [Section] = &[Settings::SECTION];

    fn run(&self, args: &Args, app: &App) -> Result<ExitCode, Failure> {
        if args.migrate {
            let settings = app.settings();
            let role: Settings = settings.block()?;
            let url = settings.required::<Settings, _>("outboxUrl", role.outbox_url)?;
            let database: Database =
                url.expose().parse().map_err(|why: String| settings.refuse::<Settings>("outboxUrl", why))?;
            return app.block_on(async {
                migrate(&database).await?;
                println!("the outbox in {database} is ready");
                Ok(ExitCode::SUCCESS)
            });
        }
        let plan = Plan::of(app)?;
        let elector = campaign::elector(app, plan.store.as_ref(), LEASE)?;
        app.block_on(work(plan, elector))
    }
}

/// Creates the outbox's tables.
async fn migrate(database: &Database) -> anyhow::Result<()> {
    let failed = |error| anyhow::anyhow!("the outbox in {database} could not be prepared: {error}");
    let outbox = outbox::open(database, true, Duration::from_secs(60)).await.map_err(failed)?;
    outbox.migrate().await.map_err(failed)
}

async fn work(plan: Plan, elector: lease_core::Elector) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics()?;
    metrics::start();
    if let Database::Sqlite(path) = &plan.outbox {
        check_apart(&plan, path)?;
        migrate(&plan.outbox).await?;
    }
    let outbox = outbox::open(&plan.outbox, false, plan.transaction_limit())
        .await
        .map_err(|error| Failure::new(format!("the outbox in {} can't be opened: {error}", plan.outbox)))?;
    let call_limit: Duration = plan.role.call_timeout_ms.into();
    let forwarder = Forwarder {
        outbox: outbox.clone(),
        sender: Sender::new(plan.ingest.clone(), plan.lease(), call_limit)?,
        batch_size: plan.role.batch_size,
        poll_every: plan.role.poll_interval_ms.into(),
        retry_every: plan.retry_every(),
        call_limit,
        keep_days: plan.role.retention_days,
        batch: Batch::default(),
    };
    let eligible = Arc::new(AtomicBool::new(false));
    let probe = Arc::new(Health { outbox, eligible: eligible.clone() });
    let (listener, address) = health::listen(&plan.listen).await?;
    let ingest = redacted(plan.ingest.as_str());
    info!(%address, outbox = %plan.outbox, ingest, lease = %plan.lease(), "outbox-forwarder started");
    // Probes and scrapes are answered until the lease is given up.
    let server = Server::start(listener, health::router(pages, probe, stop.clone()));
    let budget = plan.election.stop_budget_ms.into();
    match plan.store {
        Some(_) => campaign::campaign(elector, &forwarder, NAMES, eligible, stop, budget).await?,
        None => campaign::alone(&forwarder, NAMES, eligible, stop, budget).await?,
    }
    drop(server);
    Ok(ExitCode::SUCCESS)
}

/// Bulk writes beside the leases would delay renewals until terms are lost.
fn check_apart(plan: &Plan, outbox: &Path) -> Result<(), Failure> {
    let store = plan.store.as_ref().map(ToString::to_string).unwrap_or_default();
    let full = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    let leases = store.strip_prefix("sqlite file ").and_then(|leases| full(Path::new(leases)));
    if leases.is_some() && leases == full(outbox) {
        let why = format!(
            "the outbox can't be in the file of the leases, {}: give it one of its own by --outbox-url",
            outbox.display()
        );
        return Err(Failure::Code(2, why));
    }
    Ok(())
}

struct Health {
    outbox: Arc<dyn Outbox>,
    /// May lead, now or later.
    eligible: Arc<AtomicBool>,
}

#[async_trait]
impl Probe for Health {
    async fn ready(&self) -> Result<(), String> {
        if !self.eligible.load(Ordering::Relaxed) {
            return Err("not eligible to lead: the lease store has not answered yet, or another instance took over in mode disabled".to_owned());
        }
        let age: Result<_, StoreError> = self.outbox.oldest_pending_age().await;
        age.map(drop).map_err(|error| format!("the outbox does not answer: {error}"))
    }

    async fn refresh(&self) {
        if let Ok(age) = self.outbox.oldest_pending_age().await {
            gauge!(metrics::OLDEST_PENDING).set(age);
        }
    }
}
