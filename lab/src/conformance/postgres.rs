//! The suite on Postgres, in schemas of its own: on a server that somebody runs, or on one that is started for it.

mod own;
mod resource;
mod room;
mod wire;

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use lease_conformance::{Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_postgres::{Fence, Postgres, PostgresConfig, ROLES_SQL};
use lease_testbed::{LostReply, PostgresOptions, Proxy};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};
use tokio::sync::Mutex;

use self::own::Server;
use self::resource::Resource;
use self::wire::Wire;
use super::{Place, actor};

/// What the suite may open on a server of its own; four times what it was seen to.
const CONNECTIONS: u32 = 500;

/// Where the suite's schemas are, as an actor's process is told. It holds passwords: never an argument.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct At {
    url: String,
    admin_url: String,
    schema: String,
}

/// One schema for the leases, and one for each fenced resource.
pub(super) struct Schemas {
    at: At,
    worker: PgConnectOptions,
    admin: PgConnectOptions,
    facilities: Vec<Facility>,
    parallel: usize,
    wire: Wire,
    /// What loses replies, kept until the end.
    losing: Mutex<Vec<(Proxy, LostReply)>>,
    /// Started for this, if none was named.
    server: Option<Server>,
}

// === impl At ===

impl At {
    fn new(url: String, admin_url: Option<&str>) -> Self {
        let admin_url = admin_url.map_or_else(|| url.clone(), str::to_owned);
        Self { url, admin_url, schema: format!("leasehold_{:08x}", rand::random::<u32>()) }
    }

    /// Its connections carry the schema's name, so that they can be told from everybody else's.
    fn options(&self, url: &str) -> anyhow::Result<PgConnectOptions> {
        Ok(PgConnectOptions::from_str(url)?.application_name(&self.schema))
    }

    /// The harness of an actor's process.
    pub(super) fn open(self) -> anyhow::Result<Schemas> {
        self.on(None)
    }

    fn on(self, server: Option<Server>) -> anyhow::Result<Schemas> {
        let (worker, admin) = (self.options(&self.url)?, self.options(&self.admin_url)?);
        let mut facilities = vec![Facility::Delete, Facility::FencedEffects, Facility::Processes];
        let wire = Wire::before(&worker);
        if wire.is_plain() {
            facilities.push(Facility::LoseReply);
        }
        if server.is_some() {
            facilities.extend([Facility::Restart, Facility::ChangeLineage]);
        }
        Ok(Schemas {
            at: self,
            worker,
            admin,
            facilities,
            parallel: 8,
            wire,
            losing: Mutex::default(),
            server,
        })
    }
}

// === impl Schemas ===

impl Schemas {
    pub(super) async fn make(url: Option<&str>, admin_url: Option<&str>) -> anyhow::Result<Self> {
        let Some(url) = url else {
            let server = Server::start(PostgresOptions::default().max_connections(CONNECTIONS)).await?;
            let schemas = At::new(server.url(), None).on(Some(server))?;
            schemas.prepare().await?;
            return Ok(schemas);
        };
        let mut schemas = At::new(url.to_owned(), admin_url).on(None)?;
        schemas.parallel = room::parallel_cases(&schemas.worker, &schemas.admin).await?;
        if schemas.wire.is_plain()
            && let Err(why) = schemas.wire.try_out(&schemas.worker).await
        {
            schemas.facilities.retain(|facility| *facility != Facility::LoseReply);
            schemas.wire = Wire::Closed(why);
        }
        let schema = schemas.at.schema.clone();
        eprintln!("the suite works in the schemas {schema}*, and drops them at its end");
        if let Err(error) = schemas.prepare().await {
            schemas.clean_up().await.ok();
            return Err(error.context(format!(
                "cannot make the schema {schema}: name a role that may create schemas by --admin-url"
            )));
        }
        Ok(schemas)
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        let config = PostgresConfig::from_options(self.admin.clone()).schema(&self.at.schema)?;
        lease_postgres::migrate(&config).await?;
        let mut worker = PgConnection::connect_with(&self.worker).await?;
        let role: String =
            sqlx::query_scalar("SELECT quote_ident(current_user)").fetch_one(&mut worker).await?;
        worker.close().await?;
        self.as_admin(&grants(&self.at.schema, &role)).await?;
        Ok(())
    }

    async fn as_admin(&self, sql: &str) -> Result<(), sqlx::Error> {
        execute(&self.admin, sql).await
    }

    fn config(&self, options: &PgConnectOptions) -> Result<PostgresConfig, BackendError> {
        let config = PostgresConfig::from_options(options.clone()).schema(&self.at.schema);
        // Two is what one lease needs (U-5), and the server may have others to serve.
        let config = config.and_then(|config| config.pool_size(2));
        config.map_err(|error| BackendError::refused(error.to_string()))
    }
}

async fn execute(options: &PgConnectOptions, sql: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

/// The grants of the role script, for a role that exists.
fn grants(schema: &str, role: &str) -> String {
    let grants = ROLES_SQL.lines().filter(|line| line.starts_with("GRANT"));
    let filled = |line: &str| line.replace(":\"schema\"", schema).replace(":\"role\"", role);
    grants.map(filled).collect::<Vec<_>>().join("\n")
}

#[async_trait]
impl Place for Schemas {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness> {
        self
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let schema = &self.at.schema;
        // After Ctrl-C the server may still work on what cases had asked for: that must have ended, or it would make
        // again what is dropped below. Each role may end its own.
        let end = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE application_name = '{schema}' AND usename = current_user AND pid <> pg_backend_pid()"
        );
        for options in [&self.worker, &self.admin] {
            // The locks of what can't be ended are waited for below.
            let _ = execute(options, &end).await;
        }
        let drop = format!(
            "SET lock_timeout = '10s';
             DO $$ DECLARE each name; BEGIN
                 FOR each IN SELECT nspname FROM pg_namespace WHERE starts_with(nspname, '{schema}') LOOP
                     EXECUTE format('DROP SCHEMA %I CASCADE', each);
                 END LOOP;
             END $$"
        );
        let dropped = self.as_admin(&drop).await;
        dropped.with_context(|| format!("cannot drop the schemas {schema}*: do so by hand"))
    }
}

#[async_trait]
impl Harness for Schemas {
    fn name(&self) -> &str {
        "postgres"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Postgres::connect(self.config(&self.worker)?).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(1500)
    }

    fn parallel_cases(&self) -> usize {
        self.parallel
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        match (facility, &self.wire) {
            (Facility::Restart, _) => {
                "the suite restarts no server that somebody runs (without --url it starts one of its own)"
                    .into()
            }
            (Facility::ChangeLineage, _) => "the suite promotes no standby of a server that somebody runs \
                 (without --url it starts two of its own)"
                .into(),
            (Facility::LoseReply, Wire::Closed(why)) => {
                format!("no fault proxy can stand before this server: {why}")
            }
            _ => format!("this harness does not offer {facility}"),
        }
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        // A lease's name needs no quoting.
        let sql = format!(
            "BEGIN; SET LOCAL leasehold.allow_delete = on;
             DELETE FROM {}.coordination_leases WHERE lease_name = '{lease}'; COMMIT",
            self.at.schema
        );
        self.as_admin(&sql).await.map_err(Missing::because)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        if self.server.is_none() {
            return Err(self.missing(Facility::Restart));
        }
        let server = Server::with_standby().await.map_err(Missing::because)?;
        let schemas = At::new(server.url(), None).on(Some(server)).map_err(Missing::because)?;
        schemas.prepare().await.map_err(Missing::because)?;
        Ok(Arc::new(schemas))
    }

    async fn restart(&self) -> Result<(), Missing> {
        let server = self.server.as_ref().ok_or_else(|| self.missing(Facility::Restart))?;
        server.restart().await.map_err(Missing::because)
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        let server = self.server.as_ref().ok_or_else(|| self.missing(Facility::ChangeLineage))?;
        server.fail_over().await.map_err(Missing::because)
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let (proxy, through) = self.wire.proxy(&self.worker).await.map_err(Missing::because)?;
        let config = self.config(&through).map_err(Missing::because)?;
        let backend = Postgres::connect(config).await.map_err(Missing::because)?;
        // The suite's names begin so; connections rehearse with others.
        let trap =
            proxy.lose_reply(|request| request.sql_contains("UPDATE") && request.contains("conformance-"));
        self.losing.lock().await.push((proxy, trap));
        Ok(Arc::new(backend))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        // Each a schema of its own, so that its locks are in nobody's way. Actors' processes, which are this same
        // program, find it by its name; a schema's is at most 40 characters long.
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let schema = format!("{}_{:016x}", self.at.schema, hasher.finish());
        self.make_resource(&schema).await.map_err(Missing::because)?;
        let fence = Fence::in_schema("resource", &schema).map_err(Missing::because)?;
        Ok(Arc::new(Resource { options: self.admin.clone(), schema, fence }))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.arg(actor::COMMAND).env(actor::PLACE, actor::Place::Postgres(self.at.clone()).to_json());
        Some(command)
    }
}

impl Schemas {
    /// Unless it is there already.
    async fn make_resource(&self, schema: &str) -> Result<(), sqlx::Error> {
        let mut admin = PgConnection::connect_with(&self.admin).await?;
        let is_made = sqlx::query_scalar("SELECT to_regclass($1 || '.leasehold_fence_marks') IS NOT NULL");
        if !is_made.bind(schema).fetch_one(&mut admin).await? {
            let create = format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.effects (sequence bigserial, epoch bigint, id text)"
            );
            sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut admin).await?;
            Fence::in_schema("any", schema).expect("a valid schema").install(&mut admin).await?;
        }
        admin.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grants_name_the_schema_and_the_role() {
        let grants = grants("s", "\"r\"");
        assert!(grants.contains("GRANT USAGE ON SCHEMA s TO \"r\";"), "{grants}");
        assert!(!grants.contains(':'), "{grants}");
    }
}
