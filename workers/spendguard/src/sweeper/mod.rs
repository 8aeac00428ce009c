//! `ttl-sweeper`: N replicas, one of which leads, releases reservations whose time is over and, when none is left,
//! removes rows that the ledger has kept for long enough.
//!
//! Each batch is one statement in the ledger's database, which admits the lease's own term (F-1) before it reads: what
//! a replaced leader still sends is refused, and a leader that is killed at any point leaves a batch done or not done.

mod lead;
pub mod metrics;
pub mod store;

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use lease_settings::{
    App, BadSetting, BadSettings, Block, Failure, Millis, Secret, Section, Setting, SettingFault, Together,
    ValueKind,
};
use lease_worker_common::{
    Role,
    campaign::Campaign,
    database::Database,
    eligible::Eligible,
    health::{self, Probe},
    lease_gauges::LeaseGauges,
    operate::HomeArgs,
    own_database::OwnDatabase,
    server::RoleServer,
    shutdown,
    under_way::Batch,
};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use tracing::info;

use crate::DAYS;
use crate::ledger::{POSTGRES, postgres};
use lead::Sweeper;
use store::{Expired, RESOURCE, Retention};

/// The lease's name unless it is set: the role's own.
pub const LEASE: &str = TtlSweeper::NAME;

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SweeperSettings {
    ledger_database_url: Option<Secret>,
    batch_size: u32,
    poll_interval_ms: Millis,
    call_timeout_ms: Millis,
    scope_event_retention_days: u32,
    audit_retention_days: u32,
}

impl Block for SweeperSettings {
    const SECTION: Section = Section {
        name: "ttlSweeper",
        about: "worker ttl-sweeper",
        settings: &[
            Setting::new(
                "ledgerDatabaseUrl",
                "LEASEHOLD_TTL_SWEEPER_LEDGER_DATABASE_URL",
                POSTGRES,
                "the ledger's database",
            )
            .flag("sweeper-db-url")
            .secret()
            .or_file(
                "ledgerDatabaseUrlFile",
                "LEASEHOLD_TTL_SWEEPER_LEDGER_DATABASE_URL_FILE",
                "sweeper-db-url-file",
            ),
            Setting::new(
                "batchSize",
                "LEASEHOLD_TTL_SWEEPER_BATCH_SIZE",
                ValueKind::Integer { min: 1, max: 10_000 },
                "the most reservations in one batch",
            )
            .default("500")
            .flag("sweeper-batch-size"),
            Setting::new(
                "pollIntervalMs",
                "LEASEHOLD_TTL_SWEEPER_POLL_INTERVAL_MS",
                ValueKind::Millis { min: 1, max: 3_600_000 },
                "the pause when no reservation is left to release",
            )
            .default("1000")
            .flag("sweeper-poll-interval"),
            Setting::new(
                "callTimeoutMs",
                "LEASEHOLD_TTL_SWEEPER_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 3_600_000 },
                "how long the ledger's database may take for one answer",
            )
            .default("10000")
            .flag("sweeper-call-timeout"),
            Setting::new(
                "scopeEventRetentionDays",
                "LEASEHOLD_TTL_SWEEPER_SCOPE_EVENT_RETENTION_DAYS",
                DAYS,
                "how many days changes of a scope's holder are kept, but those of its present term; audit_event_ids \
                 are forgotten with them; 0 keeps them for ever",
            )
            .default("90")
            .flag("sweeper-scope-event-retention-days"),
            Setting::new(
                "auditRetentionDays",
                "LEASEHOLD_TTL_SWEEPER_AUDIT_RETENTION_DAYS",
                DAYS,
                "how many days the ledger's audit rows of settled reservations are kept once they are forwarded; \
                 idempotency keys are forgotten with them; 0 keeps them for ever",
            )
            .default("400")
            .flag("sweeper-audit-retention-days"),
        ],
    };
}

/// Release expired reservations, while leading
#[derive(Debug, clap::Args)]
pub struct SweeperArgs {
    #[command(flatten)]
    home: HomeArgs,
}

/// The role `ttl-sweeper`.
pub struct TtlSweeper;

impl Role for TtlSweeper {
    type Arguments = SweeperArgs;
    const NAME: &'static str = "ttl-sweeper";
    const SECTIONS: &'static [Section] = &[SweeperSettings::SECTION];

    fn run(&self, args: &SweeperArgs, app: &App) -> Result<ExitCode, Failure> {
        if args.home.any() {
            let database = Database::Postgres(SweeperPlan::of(app)?.database);
            return app.block_on(args.home.run(app, Self::NAME, &database, RESOURCE));
        }
        let (plan, campaign) = (SweeperPlan::of(app), Campaign::new(app, Self::NAME)).together()?;
        app.block_on(work(plan, campaign))
    }
}

/// The role's settings, checked.
struct SweeperPlan {
    database: Box<PgConnectOptions>,
    owner: String,
    listen: String,
    role: SweeperSettings,
}

impl SweeperPlan {
    fn of(app: &App) -> Result<Self, BadSettings> {
        let settings = app.settings();
        let role: SweeperSettings = settings.block()?;
        let owner = settings.workload_id().and_then(|owner| match owner.as_str().contains('/') {
            false => Ok(owner.to_string()),
            true => Err(BadSetting {
                setting: "the instance's name".to_owned(),
                fault: SettingFault::NotAllowed(format!("{:?}", owner.as_str())),
                why: "it is part of event ids, so use one without '/': set LEASEHOLD_WORKLOAD_ID".to_owned(),
            }),
        });
        let url = role.ledger_database_url.as_ref();
        let database = postgres::<SweeperSettings>(settings, "ledgerDatabaseUrl", url);
        let (database, owner) = (database, owner).together()?;
        let listen = settings.block::<health::HealthSettings>()?.listen;
        Ok(Self { database, owner, listen, role })
    }
}

async fn work(plan: SweeperPlan, campaign: Campaign<'_>) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics(TtlSweeper::NAME, campaign.mode())?;
    metrics::start();
    let expired = Arc::new(Expired::open(&plan.database, campaign.transaction_limit(), campaign.fleet()));
    let sweeper = Sweeper {
        expired: expired.clone(),
        owner: plan.owner,
        batch_size: plan.role.batch_size,
        keep: Retention {
            scope_days: plan.role.scope_event_retention_days,
            audit_days: plan.role.audit_retention_days,
        },
        poll_every: plan.role.poll_interval_ms.into(),
        retry_every: campaign.retry_every(),
        database: OwnDatabase {
            call_limit: plan.role.call_timeout_ms.into(),
            resource: "ledger",
            called: "the ledger's database",
            unavailable: metrics::LEDGER_UNAVAILABLE,
        },
        batch: Batch::default(),
    };
    let probe = Arc::new(Health { expired, eligible: campaign.eligible(), lease: campaign.gauges() });
    let (listener, address) = health::listen(&plan.listen, "--listen").await?;
    let database = Database::Postgres(plan.database);
    info!(%address, ledger = %database, "ttl-sweeper started");
    // Probes and scrapes are answered until the lease is given up.
    let server = RoleServer::start(listener, health::router(pages, probe, stop.clone()));
    campaign.run(&sweeper, stop).await?;
    drop(server);
    Ok(ExitCode::SUCCESS)
}

struct Health {
    expired: Arc<Expired>,
    eligible: Eligible,
    lease: Option<LeaseGauges>,
}

#[async_trait]
impl Probe for Health {
    async fn ready(&self) -> Result<(), String> {
        self.eligible.check()?;
        let ready = self.expired.ready().await;
        ready.map_err(|error| format!("the ledger's database can't be used: {error}"))
    }

    async fn refresh(&self) {
        health::show_age(metrics::OLDEST_EXPIRED, self.expired.oldest_age()).await;
        self.lease.iter().for_each(LeaseGauges::show);
    }
}
