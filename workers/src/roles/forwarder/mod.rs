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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::metrics::gauge;
use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lease_core::{ElectorBuilder, EventKind, LeaseName, RunError};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use super::database::{Database, StoreError, within};
use super::health::{self, Probe, Server};
use super::mandate::Mandate;
use super::outbox::{self, Outbox};
use super::under_way::UnderWay;
use crate::modes::Store;
use crate::settings::{BadSetting, Block, Kind, LeaderElection, Millis, Secret, Section, Setting};
use crate::{App, Failure, shutdown};
use lead::Forwarder;
use sender::Sender;

/// The lease's name unless it is set.
pub const LEASE: &str = "outbox-forwarder";

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    outbox_url: Option<Secret>,
    ingest_url: Option<String>,
    batch_size: u32,
    poll_interval_ms: Millis,
    call_timeout_ms: Millis,
}

impl Block for Settings {
    const SECTION: Section = Section {
        name: "outboxForwarder",
        about: "worker outbox-forwarder",
        settings: &[
            Setting::new(
                "outboxUrl",
                "LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL",
                super::database::KIND,
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
        ],
    };
}

/// Forward the audit outbox to canonical-ingest, while leading
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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

/// Runs the role until it is told to stop.
pub(crate) fn run(args: &Args, app: &App) -> Result<ExitCode, Failure> {
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
    // Checked before anything starts; also in mode `disabled`, where it is not used.
    let never = || async { Err(lease_core::BackendError::refused("mode disabled has no lease store")) };
    let elector = match &plan.store {
        Some(store) => {
            let from = app.migrate_from()?;
            let refine = |builder: ElectorBuilder| match from {
                Some(from) => builder.migrate_from(from),
                None => builder,
            };
            app.settings().elector(store.clone(), Some(LEASE), refine)?
        }
        None => app.settings().elector(never, Some(LEASE), |builder| builder)?,
    };
    app.block_on(work(plan, elector))
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
        under_way: UnderWay::new(),
        batch: Mutex::new(None),
    };
    let probe = Arc::new(Health { outbox, eligible: AtomicBool::new(false) });
    let (listener, address) = health::listen(&plan.listen).await?;
    info!(%address, outbox = %plan.outbox, ingest = %plan.ingest, lease = %plan.lease(), "outbox-forwarder started");
    // Probes and scrapes are answered until the lease is given up.
    let server = Server::start(listener, health::router(pages, probe.clone(), stop.clone()));
    let budget = plan.election.stop_budget_ms.into();
    match plan.store {
        Some(_) => campaign(elector, forwarder, probe, stop, budget).await?,
        None => alone(forwarder, probe, stop, budget).await?,
    }
    drop(server);
    Ok(ExitCode::SUCCESS)
}

/// What becomes of a batch that the process leaves behind.
const ABANDONED: &str = "its rows stay pending and each event is kept once";

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

/// With a lease: leads again and again, until told to stop.
async fn campaign(
    elector: lease_core::Elector,
    forwarder: Forwarder,
    probe: Arc<Health>,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let following = tokio::spawn(metrics::follow(elector.events()));
    let mut events = elector.events();
    let connected = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if event.is_ok_and(|event| matches!(event.kind, EventKind::Connected { .. })) {
                probe.eligible.store(true, Ordering::Relaxed);
            }
        }
    });
    let work = |leadership| {
        let work = forwarder.lead(Mandate::lease(leadership));
        work.map(Ok::<_, std::convert::Infallible>)
    };
    let ended = elector.run_until(stop.cancelled(), work).await;
    connected.abort();
    let _ = following.await;
    ended.map(drop).map_err(|error| match error {
        RunError::StopBudgetExceeded => {
            let then = format!("{ABANDONED}; the lease was not released and runs out by itself");
            shutdown::abandoned(budget, &forwarder.under_way, &then)
        }
        error => Failure::new(error.to_string()),
    })
}

/// Mode `disabled`: the outbox's own database gives the term, so an accidental second instance fences this one out.
async fn alone(
    forwarder: Forwarder,
    probe: Arc<Health>,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let taking = async {
        loop {
            match within(forwarder.call_limit, forwarder.outbox.take_term()).await {
                Ok(term) => return term,
                Err(why) => warn!(%why, "no term from the outbox; trying again"),
            }
            tokio::time::sleep(forwarder.retry_every).await;
        }
    };
    let term = tokio::select! {
        term = taking => term,
        () = stop.cancelled() => return Ok(()),
    };
    info!(epoch = term.epoch, grant = %term.grant, "leading: mode disabled, term taken from the outbox");
    probe.eligible.store(true, Ordering::Relaxed);
    gauge!(metrics::IS_LEADER).set(1);
    let mandate = Mandate::sole(term, stop.clone());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(budget).await;
    };
    tokio::select! {
        () = forwarder.lead(mandate.clone()) => {}
        () = late => return Err(shutdown::abandoned(budget, &forwarder.under_way, ABANDONED)),
    }
    gauge!(metrics::IS_LEADER).set(0);
    if mandate.loss().is_some() {
        // F-4: taking another term because the fence refused this one would make two instances duel for ever.
        error!(
            "another instance works on this outbox: this one stays idle until it is stopped; run only one, or choose a mode with leases"
        );
        probe.eligible.store(false, Ordering::Relaxed);
        stop.cancelled().await;
    }
    Ok(())
}

struct Health {
    outbox: Arc<dyn Outbox>,
    /// May lead, now or later.
    eligible: AtomicBool,
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
