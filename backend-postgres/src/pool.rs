//! A small pool of our own. sqlx's asks each connection that comes back for a sign of life (a second round trip for
//! each statement), retries and sleeps while connecting, and takes back what was dropped in mid-statement.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lease_core::writes::{self, Fresh};
use lease_core::{BackendError, Change, LeaseName};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{Connection, Row};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::{PostgresConfig, server};
use crate::error;
use crate::rows::Standing;
use crate::statements::{Statements, bind_put, query};

/// No server takes longer to open a connection, unless it is out of reach.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// A connection that nobody has used for longer may have been forgotten by a firewall on the way.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Pool {
    pub(crate) config: PostgresConfig,
    pub(crate) statements: Statements,
    options: PgConnectOptions,
    /// A pooler in between refused `options` at start-up.
    plain: AtomicBool,
    told: AtomicBool,
    idle: Mutex<Vec<(Instant, Opened)>>,
    slots: Semaphore,
    newest: Arc<NewestTimeline>,
}

/// A connection whose server was found fit.
pub(crate) struct Opened {
    pub(crate) connection: PgConnection,
    pub(crate) system_id: String,
    pub(crate) pid: i32,
}

/// The greatest timeline seen under a system identifier, kept over reconnections.
#[derive(Debug, Default)]
pub(crate) struct NewestTimeline(Mutex<Option<(String, u64)>>);

impl Pool {
    pub(crate) fn new(config: PostgresConfig, newest: Arc<NewestTimeline>) -> Self {
        let own_limit = config.options.get_options().is_some_and(|options| options.contains("lock_timeout"));
        // Each statement is planned once, when a connection is opened.
        let options = config.options.clone().options([("plan_cache_mode", "force_generic_plan")]);
        let options = match own_limit {
            true => options,
            // U-5: the server itself gives up what nobody waits for any more.
            false => options.options([("lock_timeout", config.lock_timeout.as_millis().to_string())]),
        };
        Self {
            statements: Statements::new(&config),
            options,
            plain: AtomicBool::new(false),
            told: AtomicBool::new(false),
            idle: Mutex::new(Vec::new()),
            slots: Semaphore::new(config.pool_size as usize),
            newest,
            config,
        }
    }

    /// A connection that is ready for a statement. Every failure is NotApplied: no statement was sent.
    pub(crate) async fn take(&self) -> Result<Lent<'_>, BackendError> {
        let slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let idle = loop {
            match self.idle().pop() {
                Some((since, _)) if since.elapsed() > IDLE_LIMIT => {}
                Some((_, opened)) => break Some(opened),
                None => break None,
            }
        };
        let opened = match idle {
            Some(opened) => opened,
            None => self.open().await?,
        };
        Ok(Lent { pool: self, opened: Some(opened), _slot: slot })
    }

    async fn open(&self) -> Result<Opened, BackendError> {
        let at = server(&self.config.options);
        match tokio::time::timeout(OPENING_LIMIT, self.open_unlimited(&at)).await {
            Ok(opened) => opened,
            Err(_) => {
                Err(BackendError::not_applied(format!("connecting to {at}: no answer for {OPENING_LIMIT:?}")))
            }
        }
    }

    async fn open_unlimited(&self, at: &str) -> Result<Opened, BackendError> {
        let failed = |error| error::not_applied(format!("connecting to {at}"), error);
        let mut connection = match self.plain.load(Ordering::Relaxed) {
            true => PgConnection::connect_with(&self.config.options).await.map_err(failed)?,
            false => match PgConnection::connect_with(&self.options).await {
                Err(error) if error::refuses_startup_options(&error) => {
                    self.plain.store(true, Ordering::Relaxed);
                    PgConnection::connect_with(&self.config.options).await.map_err(failed)?
                }
                connected => connected.map_err(failed)?,
            },
        };
        let row =
            query(&self.statements.observe).bind("").fetch_one(&mut connection).await.map_err(failed)?;
        let standing = Standing::of(&row).map_err(failed)?;
        self.judge(&standing)?;
        self.rehearse(&mut connection, &standing).await.map_err(failed)?;
        if !self.told.swap(true, Ordering::Relaxed) {
            self.tell(at, &standing);
        }
        Ok(Opened { connection, system_id: standing.system_id, pid: standing.pid })
    }

    /// What an operator should know, once.
    fn tell(&self, at: &str, standing: &Standing) {
        if standing.lock_timeout == "0" {
            tracing::warn!(
                server = at,
                "no lock_timeout: statements that nobody waits for would pile up behind a locked row; \
                 run ALTER ROLE {} SET lock_timeout = '1s'",
                self.config.options.get_username(),
            );
        }
        if !standing.waits_for_standby() {
            tracing::info!(
                server = at,
                "commits do not wait for a synchronous standby: after a failover to another server two may lead \
                 for a while, and only fenced effects are safe then"
            );
        }
    }

    /// A server's new process reads catalogs, plans, and compiles the history's trigger when it first acquires:
    /// milliseconds that a hand-over would wait for. So it holds a lease of its own once, in a transaction that is
    /// rolled back: nobody sees its name, which no other connection has, and nothing waits for the disk. An epoch and
    /// a few history numbers are used up (E-1: gaps are normal).
    async fn rehearse(&self, connection: &mut PgConnection, standing: &Standing) -> Result<(), sqlx::Error> {
        let mut rehearsal = connection.begin().await?;
        let mut expected = standing.observation_of_nothing();
        let name = LeaseName::new(format!("rehearsal-{}", Fresh::random().tag)).expect("a valid name");
        for change in [Change::Init, Change::Acquire, Change::Renew, Change::Release] {
            let fresh = Fresh::random();
            let record = writes::init(&expected, Duration::from_secs(1), 0, Some(fresh.grant), &fresh);
            let statement = query(self.statements.put(change, expected.record.is_some()));
            bind_put(statement, &name, &expected, &record, change)
                .map_err(|invalid| sqlx::Error::Encode(invalid.into()))?
                .execute(&mut *rehearsal)
                .await?;
            expected.record = Some(record);
        }
        rehearsal.rollback().await
    }

    /// May this server hold leases (PG-1, R-2)?
    pub(crate) fn judge(&self, standing: &Standing) -> Result<(), BackendError> {
        let refuse = |why: String| Err(BackendError::refused(why));
        let at = server(&self.config.options);
        let user = self.config.options.get_username();
        if standing.fsync != "on" {
            return refuse(format!(
                "{at} runs with fsync = off, so a crash loses acknowledged beats; set fsync = on"
            ));
        }
        if standing.synchronous_commit == "off" {
            return refuse(format!(
                "synchronous_commit is off for {user} at {at}, so a crash loses acknowledged beats; \
                 run ALTER ROLE {user} SET synchronous_commit = on"
            ));
        }
        if self.config.synchronous_replication && !standing.waits_for_standby() {
            return refuse(format!(
                "commits at {at} do not wait for a synchronous standby, which require_synchronous_replication asks \
                 for; set synchronous_standby_names, and synchronous_commit = on"
            ));
        }
        let number = standing.timeline_number;
        let mut newest = self.newest.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *newest {
            Some((system_id, newest)) if *system_id == standing.system_id => {
                if number < *newest {
                    return refuse(format!(
                        "{at} is on timeline {number}, and timeline {newest} of the same cluster was seen before: \
                         this is an old primary; shut it down, and connect to the present one"
                    ));
                }
                *newest = number;
            }
            other => *other = Some((standing.system_id.clone(), number)),
        }
        Ok(())
    }

    /// Does a transaction pooler stand in between? One that loses prepared statements is refused.
    ///
    /// Two connections: while the second keeps a server's connection to itself by a transaction, the first must
    /// find its statement on whatever server's connection it is given now.
    pub(crate) async fn probe_for_pooler(&self) -> Result<bool, BackendError> {
        let failed = |failure| error::not_applied("looking for a pooler", failure);
        let pid = |row: &PgRow| row.try_get::<i32, _>("pid");
        let mut first = self.take().await?;
        let mut second = self.take().await?;
        let apart = sqlx::raw_sql("BEGIN; SELECT pg_backend_pid() AS pid")
            .fetch_one(&mut second.connection)
            .await
            .and_then(|row| pid(&row))
            .map_err(failed)?;
        let mut pooled = apart == first.pid;
        if !pooled {
            let again = query(&self.statements.observe).bind("").fetch_one(&mut first.connection).await;
            pooled = again.and_then(|row| pid(&row)).map_err(failed)? != first.pid;
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut second.connection).await.map_err(failed)?;
        // The second is closed: one is enough while calls don't overlap, and a server's process costs memory.
        first.keep();
        Ok(pooled)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Opened)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan. Dropped, it is closed; only [`keep`](Self::keep) gives it back (U-4).
pub(crate) struct Lent<'a> {
    pool: &'a Pool,
    opened: Option<Opened>,
    _slot: SemaphorePermit<'a>,
}

impl Lent<'_> {
    /// Its statement has been answered to the end: the next caller may have it.
    pub(crate) fn keep(mut self) {
        if let Some(opened) = self.opened.take() {
            self.pool.idle().push((Instant::now(), opened));
        }
    }

    /// What becomes of it after a failed statement. When one connection is broken, the idle ones probably are too.
    pub(crate) fn failed(self, error: &sqlx::Error) {
        match error {
            error if error::is_contention(error) => self.keep(),
            sqlx::Error::Io(_) | sqlx::Error::Database(_) => self.pool.idle().clear(),
            _ => {}
        }
    }
}

impl Deref for Lent<'_> {
    type Target = Opened;
    fn deref(&self) -> &Opened {
        self.opened.as_ref().expect("only keep takes it, and ends the loan")
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Opened {
        self.opened.as_mut().expect("only keep takes it, and ends the loan")
    }
}
