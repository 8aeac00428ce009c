//! Schemas of our own on a server: one of ours, with a standby where a case may break it, or somebody else's.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lease_conformance::{Attached, Facility, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName};
use lease_judge::FencedResource;
use lease_postgres::{Postgres, ROLES_SQL};
use lease_testbed::{Postgres as Server, PostgresOptions, Proxy, StandbyOptions};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::wire::Wire;
use super::{DESCRIPTIONS, PostgresArgs, PostgresPlace, backup, execute, room};
use crate::store::{Link, StoreFault, TestStore, missing};
use crate::{Place, actor};

/// Connections to a server of our own: four times as many as the suite was seen to open at once.
const CONNECTIONS: u32 = 500;

/// Schemas of our own on a server.
pub struct PostgresStore {
    place: PostgresPlace,
    facilities: Vec<Facility>,
    parallel: usize,
    wire: Wire,
    /// Started for this, if none was named.
    server: Option<Server>,
    /// For a store that a case may disturb: the server's standby, and an address before both that can move.
    pair: Option<(Server, Proxy)>,
}

/// The grants of the role script, for a role that exists.
fn grants(schema: &str, role: &str) -> String {
    let grants = ROLES_SQL.lines().filter(|line| line.starts_with("GRANT"));
    let filled = |line: &str| line.replace(":\"schema\"", schema).replace(":\"role\"", role);
    grants.map(filled).collect::<Vec<_>>().join("\n")
}

impl PostgresStore {
    /// On a server of our own.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn start() -> anyhow::Result<Self> {
        // Without a short time limit, a client that was stopped as it connected would hold up the server's end.
        let options = PostgresOptions::default().max_connections(CONNECTIONS);
        let server = Server::start(options.setting("authentication_timeout", "3s")).await?;
        let store = Self::on(PostgresPlace::new(server.url(), None), Some(server), None)?;
        store.prepare().await?;
        Ok(store)
    }

    /// On a server of our own with a standby, for one case alone.
    async fn start_pair() -> anyhow::Result<Self> {
        let server = Server::start(PostgresOptions::default()).await?;
        let standby = server.standby(StandbyOptions::asynchronous("standby")).await?;
        let proxy = Proxy::postgres(server.addr())?;
        let place = PostgresPlace::new(proxy.url(&server.url())?, None);
        let store = Self::on(place, Some(server), Some((standby, proxy)))?;
        store.prepare().await?;
        Ok(store)
    }

    pub(crate) async fn open(args: PostgresArgs) -> anyhow::Result<Self> {
        let Some(url) = args.url else { return Self::start().await };
        let mut store = Self::on(PostgresPlace::new(url, args.admin_url), None, None)?;
        let (worker, admin) = (store.place.worker()?, store.place.admin()?);
        store.parallel = room::parallel_cases(&worker, &admin).await?;
        if store.wire.is_plain()
            && let Err(why) = store.wire.try_out(&worker).await
        {
            store.facilities.retain(|facility| *facility != Facility::LoseReply);
            store.wire = Wire::Closed(why);
        }
        let schema = store.place.schema.clone();
        eprintln!("the suite works in the schemas {schema}*, and drops them at its end");
        if let Err(error) = store.prepare().await {
            store.clean_up().await.ok();
            return Err(error.context(format!(
                "cannot make the schema {schema}: name a role that may create schemas by --admin-url"
            )));
        }
        Ok(store)
    }

    fn on(
        place: PostgresPlace,
        server: Option<Server>,
        pair: Option<(Server, Proxy)>,
    ) -> anyhow::Result<Self> {
        let wire = Wire::before(&place.worker()?);
        let mut facilities =
            vec![Facility::Delete, Facility::Rewind, Facility::FencedEffects, Facility::Processes];
        if wire.is_plain() {
            facilities.push(Facility::LoseReply);
        }
        if server.is_some() {
            facilities.extend([
                Facility::Restart,
                Facility::Stop,
                Facility::ChangeLineage,
                Facility::RewindFloor,
            ]);
        }
        Ok(Self { place, facilities, parallel: 8, wire, server, pair })
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        let place = &self.place;
        lease_postgres::migrate(&place.config(place.admin()?)?).await?;
        let mut worker = PgConnection::connect_with(&place.worker()?).await?;
        let role: String =
            sqlx::query_scalar("SELECT quote_ident(current_user)").fetch_one(&mut worker).await?;
        worker.close().await?;
        place.as_admin(&grants(&place.schema, &role)).await
    }

    fn server(&self) -> anyhow::Result<&Server> {
        self.server.as_ref().context("the server is somebody else's, and stays as it is")
    }

    async fn fail_over(&self) -> anyhow::Result<()> {
        let (standby, proxy) = self.pair.as_ref().context("the shared server stays as it is")?;
        let primary = self.server()?;
        standby.catch_up_with(primary).await?;
        primary.crash().await?;
        standby.promote().await?;
        proxy.switch_upstream(standby.addr());
        proxy.cut().await;
        Ok(())
    }

    async fn lossy(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let (proxy, through) = self.wire.proxy(&self.place.worker()?).await?;
        let backend = Postgres::connect(self.place.config(through)?).await?;
        // The suite's names begin so; connections rehearse with others.
        let trap =
            proxy.lose_reply(|request| request.sql_contains("UPDATE") && request.contains("conformance-"));
        Ok(Arc::new(Attached::new(backend, (trap, proxy))))
    }
}

#[async_trait]
impl TestStore for PostgresStore {
    fn place(&self) -> Place {
        Place::Postgres(self.place.clone())
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let schema = &self.place.schema;
        // After Ctrl-C the server may still work on what cases had asked for: that must have ended, or it would make
        // again what is dropped below. Each role may end its own.
        let end = format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE application_name = '{schema}' AND usename = current_user AND pid <> pg_backend_pid()"
        );
        for options in [self.place.worker()?, self.place.admin()?] {
            // The locks of what can't be ended are waited for below.
            let _ = execute(&options, &end).await;
        }
        let drop = format!(
            "SET lock_timeout = '10s';
             DO $$ DECLARE each name; BEGIN
                 FOR each IN SELECT nspname FROM pg_namespace WHERE starts_with(nspname, '{schema}') LOOP
                     EXECUTE format('DROP SCHEMA %I CASCADE', each);
                 END LOOP;
             END $$"
        );
        let dropped = self.place.as_admin(&drop).await;
        dropped.with_context(|| format!("cannot drop the schemas {schema}*: drop them yourself"))
    }

    fn link(&self) -> anyhow::Result<Option<(Link, Place)>> {
        let proxy = Proxy::postgres(self.server()?.addr())?;
        let place = Place::Postgres(self.place.through(&proxy)?);
        Ok(Some((Link::new([proxy]), place)))
    }

    fn faults(&self) -> &'static [(u32, StoreFault)] {
        &[(1, StoreFault::Restart), (2, StoreFault::Crash)]
    }

    async fn inject(&self, fault: StoreFault, lasts: Duration) -> anyhow::Result<()> {
        let server = self.server()?;
        match fault {
            StoreFault::Restart => server.restart().await,
            StoreFault::Crash => {
                server.crash().await?;
                tokio::time::sleep(lasts).await;
                server.start_again().await
            }
            other => bail!("a PostgreSQL server has no such fault: {}", other.name()),
        }
    }

    async fn database(&self, name: &str) -> anyhow::Result<Option<String>> {
        self.server()?.create_database(name).await.map(Some)
    }
}

#[async_trait]
impl Harness for PostgresStore {
    fn name(&self) -> &str {
        "postgres"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.place().connect().await
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(if self.server.is_some() { 800 } else { 1500 })
    }

    fn parallel_cases(&self) -> usize {
        self.parallel
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        match (facility, &self.wire) {
            (Facility::Restart | Facility::Stop, _) => {
                "the suite restarts no server that somebody runs (without --url it starts one of its own)"
                    .into()
            }
            (Facility::Split, _) => {
                "not judged: a Postgres has one primary, and no other replica takes writes; what a \
                 failover leaves behind is judged by lineage::…"
                    .into()
            }
            (Facility::ChangeLineage, _) => "the suite promotes no standby of a server that somebody runs \
                 (without --url it starts two of its own)"
                .into(),
            (Facility::RewindFloor, _) => "the suite puts back no sequence of a server that somebody runs \
                 (without --url it starts one of its own)"
                .into(),
            (Facility::LoseReply, Wire::Closed(why)) => {
                format!("no fault proxy can stand before this server: {why}")
            }
            _ => format!("this harness does not offer {facility}"),
        }
    }

    fn description(&self) -> Option<&'static str> {
        Some(DESCRIPTIONS[0])
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        // A lease's name needs no quoting.
        let sql = format!(
            "BEGIN; SET LOCAL leasehold.allow_delete = on;
             DELETE FROM {}.coordination_leases WHERE lease_name = '{lease}'; COMMIT",
            self.place.schema
        );
        self.place.as_admin(&sql).await.map_err(missing)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        Ok(Arc::new(Self::start_pair().await.map_err(missing)?))
    }

    async fn restart(&self) -> Result<(), Missing> {
        self.inject(StoreFault::Crash, Duration::ZERO).await.map_err(missing)
    }

    async fn stop(&self) -> Result<(), Missing> {
        self.server().map_err(missing)?.crash().await.map_err(missing)
    }

    async fn start_again(&self) -> Result<(), Missing> {
        self.server().map_err(missing)?.start_again().await.map_err(missing)
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        backup::back_up(&self.place, lease).await.map_err(missing)
    }

    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        backup::put_back(&self.place, lease, kept).await.map_err(missing)
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        self.fail_over().await.map_err(missing)
    }

    async fn rewind_floor(&self, _: &LeaseName, floor: u64) -> Result<(), Missing> {
        // Below the timeline are the sequence's 46 bits.
        let issued = floor & ((1 << 46) - 1);
        let sequence = format!("{}.leasehold_epochs", self.place.schema);
        let set = format!("SELECT setval('{sequence}', {}, {})", issued.max(1), issued > 0);
        self.place.as_admin(&set).await.map_err(missing)
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        self.lossy().await.map_err(missing)
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        self.place().resource(name).await.map_err(missing)
    }

    fn actor_command(&self) -> Option<Command> {
        actor::command(&self.place())
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
