//! `ledger`: a gRPC server that owns fencing scopes, budgets and reservations, in Postgres.
//!
//! A scope and every effect that it guards live in one database. Each write asks whether its term is the scope's
//! present one in its own transaction, under a lock that a takeover waits for; so scopes may be taken as soon as they
//! are free, and the ledger's clock decides only when that is polite (F-3). Any number of ledgers may serve one
//! database.

mod calls;
pub(crate) mod check;
mod metrics;
mod prepare;
mod service;
mod settings;
pub mod store;
mod wake;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::serve::ListenerExt;
use lease_core::Term;
use lease_settings::{App, Block, Failure, Section, Together};
use lease_worker_common::{
    Role,
    access::Callers,
    database::Database,
    health::{self, LAST_ANSWERS, Probe},
    listener::ListenerSettings,
    server::{RoleServer, WireProtocol},
    shutdown, stdout,
    tls::{PeerNames, ServerTls, Spoken},
};
use sqlx::postgres::PgConnectOptions;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tracing::{error, info};

use crate::rpc::ledger::v1::ledger_server::LedgerServer;
use calls::Calls;
use metrics::CALLERS_REFUSED;
pub use prepare::{ScopeLowering, add_scope, lower_scope, migrate, revoke_scope, set_budget};
use service::Service;
pub use settings::LedgerSettings;
pub(crate) use settings::{POSTGRES, postgres};
use store::LedgerStore;
use wake::Wakes;

/// Connections for scopes alone, besides those for writes. A renewal has one for a round trip.
const SCOPE_CONNECTIONS: u32 = 4;
/// The longest time for all preparations of one command.
const PREPARE_LIMIT: Duration = Duration::from_secs(120);

/// Serve fencing scopes, reservations and the audit outbox over gRPC
#[derive(Debug, clap::Args)]
pub struct LedgerArgs {
    /// Create or upgrade the tables, then do the other preparations, and exit
    #[arg(long)]
    migrate: bool,
    /// Make a fencing scope of a tenant, and exit; may be repeated
    #[arg(long, num_args = 2, value_names = ["SCOPE", "TENANT"])]
    add_scope: Vec<String>,
    /// Set a tenant's budget in minor units of a currency, and exit; may be repeated
    #[arg(long, num_args = 3, value_names = ["TENANT", "CURRENCY", "AMOUNT"])]
    set_budget: Vec<String>,
    /// End whatever term there is on a tenant's fencing scope, whoever holds it, and exit: its holder's writes are
    /// refused from now on, and whoever waits takes it at once; may be repeated
    #[arg(long, num_args = 2, value_names = ["SCOPE", "TENANT"])]
    revoke_scope: Vec<String>,
    /// Set the epoch of a tenant's fencing scope back to the last one that was real, and exit: nobody can hold a scope above
    /// 2^62. Ends whatever term there is, and leaves a row in fencing_scope_events; may be repeated
    #[arg(long, num_args = 3, value_names = ["SCOPE", "TENANT", "EPOCH"])]
    lower_scope: Vec<String>,
}

impl LedgerArgs {
    fn prepares(&self) -> bool {
        let repeated = [&self.add_scope, &self.set_budget, &self.revoke_scope, &self.lower_scope];
        self.migrate || repeated.iter().any(|given| !given.is_empty())
    }
}

/// The role `ledger`.
pub struct LedgerRole;

impl Role for LedgerRole {
    type Arguments = LedgerArgs;
    const NAME: &'static str = "ledger";
    const SECTIONS: &'static [Section] = &[LedgerSettings::SECTION];

    fn run(&self, args: &LedgerArgs, app: &App) -> Result<ExitCode, Failure> {
        let settings = app.settings();
        let role: LedgerSettings = settings.block()?;
        let database = postgres::<LedgerSettings>(settings, "databaseUrl", role.database_url.as_ref());
        if args.prepares() {
            let (database, _) = (database, settings.leader_election()).together()?;
            // Only what ends a term says who asked; nothing else depends on this host's name.
            let ends_terms = !args.revoke_scope.is_empty() || !args.lower_scope.is_empty();
            let by = if ends_terms { settings.operator()? } else { String::new() };
            let limited = async {
                let done = tokio::time::timeout(PREPARE_LIMIT, prepare_all(args, &by, database)).await;
                done.unwrap_or_else(|_| {
                    Err(Failure::new(format!(
                        "the ledger's database gave no answer for {PREPARE_LIMIT:?}: look what holds it up, then repeat \
                         the command"
                    )))
                })
            };
            return app.block_on(limited);
        }
        let listener: ListenerSettings<LedgerSettings> = settings.block()?;
        let spoken = Spoken { protocol: b"h2", clients_may_have_none: false };
        let (database, tls, access, election) = (
            database,
            ServerTls::of(settings, &listener, spoken),
            Callers::of(settings, &listener, &role.listen, |why| {
                settings.refuse::<LedgerSettings>("listen", why)
            }),
            settings.leader_election(),
        )
            .together()?;
        let pages = settings.block::<health::HealthSettings>()?.listen;
        let stop_budget = election.stop_budget_ms.into();
        let plan = LedgerPlan { tls, access, pages, stop_budget, role, database };
        app.block_on(work(plan))
    }
}

/// The role's settings, checked.
struct LedgerPlan {
    role: LedgerSettings,
    database: Box<PgConnectOptions>,
    tls: Option<ServerTls>,
    access: Callers,
    pages: String,
    stop_budget: Duration,
}

async fn prepare_all(
    args: &LedgerArgs,
    by: &str,
    options: Box<PgConnectOptions>,
) -> Result<ExitCode, Failure> {
    let database = Database::Postgres(options.clone());
    let failed =
        |error: String| Failure::new(format!("the ledger in {database} could not be prepared: {error}"));
    let budgets: Vec<_> = args.set_budget.chunks(3).map(budget).collect::<Result<_, _>>()?;
    let lowerings: Vec<_> =
        args.lower_scope.chunks(3).map(|words| lowering(words, by)).collect::<Result<_, _>>()?;
    for (flag, given) in [("--add-scope", &args.add_scope), ("--revoke-scope", &args.revoke_scope)] {
        for pair in given.chunks(2) {
            let [scope, tenant] = pair else { continue };
            asked(flag, check::name("SCOPE", scope))?;
            asked(flag, check::name("TENANT", tenant))?;
        }
    }
    if args.migrate {
        migrate(&options).await.map_err(|error| failed(error.to_string()))?;
        stdout::line(format_args!("the ledger in {database} is ready"))?;
    }
    for pair in args.add_scope.chunks(2) {
        let [scope, tenant] = pair else { continue };
        add_scope(&options, scope, tenant).await.map_err(|error| failed(error.to_string()))?;
        stdout::line(format_args!("fencing scope {scope} of tenant {tenant} is there"))?;
    }
    for (tenant, currency, limit) in budgets {
        set_budget(&options, tenant, currency, limit).await.map_err(|error| failed(error.to_string()))?;
        stdout::line(format_args!("tenant {tenant} may spend {limit} minor units of {currency}"))?;
    }
    for pair in args.revoke_scope.chunks(2) {
        let [scope, tenant] = pair else { continue };
        let revoked = revoke_scope(&options, scope, tenant, by).await;
        let (epoch, holder) = revoked.map_err(|error| {
            Failure::new(format!("fencing scope {scope} in {database} could not be revoked: {error}"))
        })?;
        let done = match holder {
            Some(holder) => format!("{holder}'s term was ended, the epoch is {epoch} now"),
            None => format!("nobody held it, the epoch stays {epoch}"),
        };
        stdout::line(format_args!("fencing scope {scope} of tenant {tenant}: {done}"))?;
    }
    for how in lowerings {
        let ScopeLowering { scope, tenant, epoch, .. } = how;
        let before = lower_scope(&options, &how).await.map_err(|error| {
            Failure::new(format!(
                "fencing scope {scope} of tenant {tenant} in {database} was not set back: {error}"
            ))
        })?;
        stdout::line(format_args!(
            "fencing scope {scope} of tenant {tenant}: the epoch was set back from {before} to {epoch}"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lowering<'a>(words: &'a [String], by: &'a str) -> Result<ScopeLowering<'a>, Failure> {
    let [scope, tenant, epoch] = words else {
        return Err(Failure::Code(2, "--lower-scope: name a scope, its tenant and an epoch".to_owned()));
    };
    asked("--lower-scope", check::name("SCOPE", scope))?;
    asked("--lower-scope", check::name("TENANT", tenant))?;
    match epoch.parse() {
        Ok(epoch @ ..=Term::MAX_ABOVE) => Ok(ScopeLowering { scope, tenant, epoch, by }),
        _ => Err(Failure::Code(
            2,
            format!("--lower-scope {epoch}: use the greatest epoch that was real, 0 to {}", Term::MAX_ABOVE),
        )),
    }
}

fn budget(words: &[String]) -> Result<(&str, &str, i64), Failure> {
    let [tenant, currency, amount] = words else {
        return Err(Failure::Code(2, "--set-budget: name a tenant, a currency and an amount".to_owned()));
    };
    asked("--set-budget", check::name("TENANT", tenant))?;
    asked("--set-budget", check::currency(currency))?;
    match amount.parse() {
        Ok(limit @ 0..) => Ok((tenant, currency, limit)),
        _ => Err(Failure::Code(
            2,
            format!("--set-budget {amount}: use a whole number of minor units, 0 or more"),
        )),
    }
}

/// Refuses to make something that no request could name.
fn asked<T>(flag: &str, checked: Result<T, store::LedgerRefusal>) -> Result<(), Failure> {
    checked.map(drop).map_err(|refusal| Failure::Code(2, format!("{flag}: {}", refusal.message)))
}

async fn work(plan: LedgerPlan) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics(LedgerRole::NAME, health::NO_LEASE)?;
    metrics::start();
    let LedgerPlan { role, database, tls, access, .. } = plan;
    let limit = role.call_timeout_ms.into();
    let service = Arc::new(Service {
        store: LedgerStore::open(&database, role.max_connections, limit),
        calls: Calls::new(role.max_requests, limit),
        scopes: LedgerStore::open(&database, SCOPE_CONNECTIONS, limit),
        scope_calls: Calls::new(role.max_requests, limit),
        waiters: Calls::new(role.max_waiters, limit),
        wakes: Wakes::start(&database),
        poll_every: role.await_poll_ms.into(),
        stop: stop.clone(),
    });
    let (http, address) = health::listen(&plan.pages, "--listen").await?;
    let (grpc, grpc_address) = health::listen(&role.listen, "--grpc-listen").await?;
    let (mut reporter, standard_health) = tonic_health::server::health_reporter();
    reporter.set_serving::<LedgerServer<Arc<Service>>>().await;

    let ledger = LedgerServer::new(service.clone())
        .max_decoding_message_size(role.max_message_bytes)
        .max_encoding_message_size(role.max_message_bytes);
    // Health checks are open; whoever calls the ledger is known, or refused here.
    let known = move |mut request: Request<()>| {
        let names = request.extensions().get::<PeerNames>();
        let caller = access.caller(request.metadata().as_ref(), names);
        let caller = caller.map_err(|unknown| {
            CALLERS_REFUSED.unauthenticated(&unknown);
            Status::unauthenticated(unknown.to_string())
        })?;
        request.extensions_mut().insert(caller);
        Ok(request)
    };
    let routes = Routes::new(standard_health).add_service(InterceptedService::new(ledger, known));
    let secured = tls.is_some();
    let most_calls = role.max_requests.saturating_mul(2).saturating_add(role.max_waiters);
    let grpc = grpc.tap_io(|connection| {
        // Without it an answer is only later.
        let _ = connection.set_nodelay(true);
    });
    let mut serving =
        RoleServer::start_with(grpc, routes.into_axum_router(), WireProtocol::Grpc { most_calls }, tls);
    let database = Database::Postgres(database);
    info!(%address, grpc = %grpc_address, tls = secured, %database, "ledger started");

    let probe = Arc::new(Health { service: service.clone() });
    // Probes and scrapes are answered until the last call is.
    let pages = RoleServer::start(http, health::router(pages, probe, stop.clone()));
    stop.cancelled().await;
    serving.accept_no_more();
    reporter.set_not_serving::<LedgerServer<Arc<Service>>>().await;
    // Ends the streams of those who watch, which would else be waited for.
    reporter.clear_service_status(<LedgerServer<Arc<Service>> as NamedService>::NAME).await;
    reporter.clear_service_status("").await;
    // The last answers' way out. Who keeps a connection open without a call, or is gone, is not waited for.
    let calls_end = async {
        loop {
            service.none().await;
            tokio::time::sleep(LAST_ANSWERS).await;
            if service.under_way() == 0 {
                return;
            }
        }
    };
    let in_time = tokio::select! {
        () = serving.close(plan.stop_budget) => false,
        in_time = tokio::time::timeout(plan.stop_budget, calls_end) => in_time.is_ok(),
    };
    // Counted while the server still stands: it takes the calls on its connections with it.
    let (calls, budget) = (service.under_way(), plan.stop_budget);
    drop(serving);
    if !in_time && calls > 0 {
        error!(calls, ?budget, "calls were still under way at the end of the stop budget: abandoned");
        return Err(Failure::new(format!("{calls} calls were abandoned at the end of the stop budget")));
    }
    drop(pages);
    info!("ledger stopped");
    Ok(ExitCode::SUCCESS)
}

struct Health {
    service: Arc<Service>,
}

#[async_trait]
impl Probe for Health {
    async fn ready(&self) -> Result<(), String> {
        let ready = self.service.scopes.ready().await;
        ready.map_err(|error| format!("the ledger's database can't be used: {error}"))
    }
}
