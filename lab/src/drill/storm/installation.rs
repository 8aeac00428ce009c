//! Everything that runs, and what can be asked of its databases past all proxies.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::try_join_all;
use lease_spendguard::canonical;
use lease_testbed::{Folder, Postgres, PostgresOptions, Proxy};
use lease_worker_common::database::Database;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::worker::StormWorker;
use super::{prepare, socket};
use crate::drill::books::Books;
use crate::drill::load::TENANT;

pub(super) const SCOPE: &str = "payments";
const NAMES: [&str; 2] = ["a", "b"];

/// Each currency's budget: one that nobody can use up, and one that any two who are greedy overdraw, however slow the
/// machine is.
pub(super) const LIMITS: [(&str, i64); 2] = [("EUR", 100_000_000), ("USD", 7)];

/// The workers' role in the databases, which owns nothing.
pub(in crate::drill) const ROLE: &str = "worker";

/// Of which faults make the holder change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::drill) enum Seat {
    Forwarder,
    Sweeper,
    Scope,
}

pub(in crate::drill) struct Installation {
    pub(in crate::drill) postgres: Postgres,
    /// The ledger's database, in which the leases are too.
    pub(in crate::drill) pool: PgPool,
    pub(in crate::drill) canonical: PgPool,
    pub(in crate::drill) ledgers: Vec<StormWorker>,
    pub(in crate::drill) ingests: Vec<StormWorker>,
    forwarders: Vec<StormWorker>,
    sweepers: Vec<StormWorker>,
    sidecars: Vec<StormWorker>,
    pub(in crate::drill) sockets: Vec<PathBuf>,
    pub(in crate::drill) ttl: Duration,
    _folder: Folder,
}

impl Installation {
    pub(in crate::drill) async fn start(ttl_seconds: u64) -> anyhow::Result<Self> {
        let folder = Folder::new("storm")?;
        let postgres = Postgres::start(PostgresOptions::default().max_connections(200)).await?;
        let owned = postgres.create_database("ledger").await?;
        let owned_canonical = postgres.create_database("canonical").await?;
        let mut first = vec!["worker", "ledger", "--ledger-db-url", &owned, "--migrate"];
        first.extend(["--add-scope", SCOPE, TENANT]);
        let budgets = LIMITS.map(|(currency, limit)| [currency.to_owned(), limit.to_string()]);
        for [currency, limit] in &budgets {
            first.extend(["--set-budget", TENANT, currency, limit]);
        }
        prepare(&first).await?;
        let ttl = format!("{ttl_seconds}s");
        // The longest ttl of any candidate is what a register waits after a failover of the store.
        let leases = ["--mode", "postgres", "--postgres-url", &owned, "--ttl", &ttl];
        prepare(&[&["init", "--new", "outbox-forwarder", "ttl-sweeper"], &leases[..]].concat()).await?;
        let database: Database = owned_canonical.parse().map_err(anyhow::Error::msg)?;
        canonical::open(&database, true, 1, Duration::from_secs(10)).await?.migrate().await?;
        postgres.create_role(ROLE, ROLE).await?;
        for database in ["ledger", "canonical"] {
            for all in ["TABLES", "SEQUENCES", "FUNCTIONS"] {
                let grant = format!("GRANT ALL ON ALL {all} IN SCHEMA public TO {ROLE}");
                postgres.psql_in(database, &grant).await?;
            }
        }
        let (url, kept) = (postgres.url_for("ledger", ROLE, ROLE), postgres.url_for("canonical", ROLE, ROLE));

        let nowhere = ([127, 0, 0, 1], 1).into();
        let (mut ledgers, mut ingests) = (vec![], vec![]);
        let (mut forwarders, mut sweepers, mut sidecars, mut sockets) = (vec![], vec![], vec![], vec![]);
        for name in NAMES {
            let link = || Proxy::tcp(postgres.addr());
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let named = |role: &str| format!("{role}-{name}");

            let (database, grpc) = (link()?, Proxy::tcp(nowhere)?);
            let args = ["--ledger-db-url", &database.url(&url)?, "--grpc-listen", "127.0.0.1:0"];
            let ledger_url = format!("http://{}", grpc.addr());
            ledgers.push(
                StormWorker::new("ledger", named("ledger"), words(&args), vec![database])
                    .behind("grpc", grpc),
            );

            let (database, front) = (link()?, Proxy::tcp(nowhere)?);
            let args = ["--canonical-url", &database.url(&kept)?];
            let events = format!("http://{}/v1/events", front.addr());
            let ingest = StormWorker::new("canonical-ingest", named("ingest"), words(&args), vec![database]);
            ingests.push(ingest.behind("address", front));

            let database = link()?;
            let through = database.url(&url)?;
            let leads = ["--mode", "postgres", "--postgres-url", &through, "--ttl", &ttl];
            let works = ["--outbox-url", &through, "--ingest-url", &events];
            let args = words(&[&leads[..], &works].concat());
            forwarders.push(StormWorker::new("outbox-forwarder", named("forwarder"), args, vec![database]));

            let database = link()?;
            let through = database.url(&url)?;
            let leads = ["--mode", "postgres", "--postgres-url", &through, "--ttl", &ttl];
            let works = ["--sweeper-db-url", &through, "--sweeper-poll-interval", "100ms"];
            let args = words(&[&leads[..], &works].concat());
            sweepers.push(StormWorker::new("ttl-sweeper", named("sweeper"), args, vec![database]));

            let link = Proxy::tcp(ledger_url.trim_start_matches("http://").parse()?)?;
            let path = socket(folder.path(), name);
            let args = words(&[
                "--ledger-url",
                &format!("http://{}", link.addr()),
                "--fencing-scope",
                SCOPE,
                "--tenant",
                TENANT,
                "--fencing-ttl-seconds",
                &ttl_seconds.to_string(),
                "--socket",
                &path.display().to_string(),
                "--standby",
                "true",
            ]);
            sidecars.push(StormWorker::new("sidecar", named("sidecar"), args, vec![link]));
            sockets.push(path);
        }
        let pool = |url: String| async move {
            let limit = Duration::from_secs(5);
            PgPoolOptions::new().max_connections(4).acquire_timeout(limit).connect(&url).await
        };
        let (pool, canonical) = (pool(owned).await?, pool(owned_canonical).await?);
        let ttl = Duration::from_secs(ttl_seconds);
        let installation = Self {
            postgres,
            pool,
            canonical,
            ledgers,
            ingests,
            forwarders,
            sweepers,
            sidecars,
            sockets,
            ttl,
            _folder: folder,
        };
        try_join_all(installation.workers().map(|worker| worker.start(false))).await?;
        Ok(installation)
    }

    /// Those who reach a database themselves.
    pub(in crate::drill) fn on_databases(&self) -> impl Iterator<Item = &StormWorker> {
        self.forwarders.iter().chain(&self.sweepers).chain(&self.ledgers).chain(&self.ingests)
    }

    /// The databases' endpoint leads to another server from now on. Connections that are open stay where they are.
    pub(in crate::drill) fn turn_to(&self, server: &Postgres) {
        self.on_databases().for_each(|worker| worker.turn_to(server.addr()));
    }

    /// In the order in which they may be stopped: whoever asks before whoever answers.
    pub(in crate::drill) fn workers(&self) -> impl Iterator<Item = &StormWorker> {
        let asking = self.sidecars.iter().chain(&self.forwarders).chain(&self.sweepers);
        asking.chain(&self.ledgers).chain(&self.ingests)
    }

    /// The holder and its epoch; none while nobody holds it, or if its process is gone.
    pub(in crate::drill) async fn holder(&self, seat: Seat) -> anyhow::Result<Option<(&StormWorker, i64)>> {
        let (lease, workers) = match seat {
            Seat::Forwarder => ("outbox-forwarder", &self.forwarders),
            Seat::Sweeper => ("ttl-sweeper", &self.sweepers),
            Seat::Scope => (SCOPE, &self.sidecars),
        };
        let sql = match seat {
            Seat::Scope => {
                "SELECT current_holder_instance_id, current_epoch FROM fencing_scopes
                 WHERE fencing_scope_id = $1 AND current_grant IS NOT NULL"
            }
            _ => {
                "SELECT holder_workload_id, epoch FROM coordination_leases
                 WHERE lease_name = $1 AND grant_id IS NOT NULL"
            }
        };
        let held: Option<(String, i64)> = sqlx::query_as(sql).bind(lease).fetch_optional(&self.pool).await?;
        Ok(held.and_then(|(holder, epoch)| {
            workers.iter().find(|worker| worker.workload() == holder).map(|worker| (worker, epoch))
        }))
    }

    /// As the operator's RevokeFencingLease does it.
    pub(in crate::drill) async fn revoke_scope(&self) -> anyhow::Result<()> {
        let sql = "SELECT o_outcome FROM ledger_fencing_scope('revoke', $1, $2, NULL, NULL, NULL, NULL, false, NULL,
                   NULL, 'storm')";
        sqlx::query(sql).bind(SCOPE).bind(TENANT).execute(&self.pool).await?;
        Ok(())
    }

    pub(in crate::drill) async fn changes_of_holder(&self) -> anyhow::Result<u64> {
        let sql = "SELECT (SELECT count(*) FROM coordination_lease_history WHERE event_type = 'taken_over')
            + (SELECT count(*) FROM (SELECT owner_instance_id AS owner, lag(owner_instance_id) OVER (ORDER BY event_id)
                   AS before FROM fencing_scope_events WHERE owner_instance_id IS NOT NULL) AS grants
               WHERE owner <> before)";
        Ok(self.books().int(sql).await? as u64)
    }

    pub(in crate::drill) fn books(&self) -> Books<'_> {
        Books { ledger: &self.pool, canonical: &self.canonical }
    }

    pub(in crate::drill) async fn sabotage_admission(&self) -> anyhow::Result<()> {
        let sql = "CREATE OR REPLACE FUNCTION ledger_admit(p_scope text, p_tenant text, p_owner text, p_epoch bigint,
                   p_grant uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true'";
        sqlx::raw_sql(sql).execute(&self.pool).await?;
        Ok(())
    }

    pub(in crate::drill) async fn sabotage_budget(&self) -> anyhow::Result<()> {
        sqlx::raw_sql("UPDATE budgets SET limit_minor = 100000000").execute(&self.pool).await?;
        Ok(())
    }

    pub(in crate::drill) async fn lose_an_event(&self) -> anyhow::Result<()> {
        let sql =
            "DELETE FROM canonical_events WHERE ingest_id = (SELECT max(ingest_id) FROM canonical_events
                   WHERE payload ->> 'action' = 'commit')";
        sqlx::raw_sql(sql).execute(&self.canonical).await?;
        Ok(())
    }
}
