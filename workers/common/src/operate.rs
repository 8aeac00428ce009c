//! An operator's commands about a fleet's home and its register, for each role that leads.

use std::process::ExitCode;
use std::time::Duration;

use lease_core::Term;
use lease_core::admin::Init;
#[cfg(feature = "postgres")]
use lease_postgres::pool::{DURABLE, Pool};
use lease_settings::{App, Failure};

use crate::campaign::Campaign;
use crate::database::{self, Database, StoreError, within};
#[cfg(feature = "postgres")]
use crate::home::postgres;
use crate::home::{Home, KnownWork, sqlite};
use crate::registers::{self, FirstRegister};
use crate::stdout;

/// The longest wait for the database or the lease store.
const LIMIT: Duration = Duration::from_secs(30);

/// Operators' commands of a role that leads.
#[derive(Debug, clap::Args)]
pub struct HomeArgs {
    /// Forget in which mode and under which lease the work on this database was led, and exit. For a lease store that is
    /// gone for good, or another lease's name; stop all workers of it before
    #[arg(long)]
    forget_home: bool,
    /// Create this role's lease, closed, if this database was never led; else exit with 1 if it isn't there. For hooks
    /// that run before each upgrade
    #[arg(long, conflicts_with = "forget_home")]
    init_lease: bool,
    /// With --init-lease, after a loss of the lease store: create it also if this database was led, with later epochs
    /// above N, the greatest that any log or fence knows
    #[arg(long, value_name = "N", requires = "init_lease", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(..=Term::MAX_ABOVE))]
    above: Option<u64>,
}

impl HomeArgs {
    /// Is there a command to run, instead of the role?
    pub fn any(&self) -> bool {
        self.forget_home || self.init_lease
    }

    /// Runs it. `role` is also the lease's name by default.
    ///
    /// # Errors
    /// A setting, the database's or the lease store's; or that the lease is not there and must not be made.
    pub async fn run(
        &self,
        app: &App,
        role: &'static str,
        database: &Database,
        resource: &str,
    ) -> Result<ExitCode, Failure> {
        let failed = |error: StoreError| Failure::new(format!("{database} failed: {error}"));
        let known = within(LIMIT, look(database, resource)).await.map_err(failed)?;
        let known = known.ok_or(StoreError::NotMigrated).map_err(failed)?;
        if self.init_lease {
            stdout::line(first_register(&Campaign::new(app, role)?, &known, self.above).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let above = known.mark.unwrap_or_default();
        match within(LIMIT, forget(database, resource)).await.map_err(failed)? {
            Some(Home { mode, lease }) => stdout::line(format!(
                "{database} has forgotten that its work was led in mode {mode}, under lease {lease}: it will be at home \
                 where the next leader is; unless that one is in mode disabled, which needs no lease, create a new lease \
                 for it by `leasehold init --above {above}`, for its terms must exceed the last one's"
            ))?,
            None => stdout::line(format!("{database} remembers no home of this work; nothing was changed"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Before an upgrade: the lease is there, or may be made because nobody ever led the work, or because an operator says
/// `above` which epoch this store has lost it. Neither is asked before the work's home is.
async fn first_register(
    campaign: &Campaign<'_>,
    known: &KnownWork,
    above: Option<u64>,
) -> Result<String, Failure> {
    campaign.check_home(known)?;
    let (fleet, lease) = (campaign.fleet(), campaign.lease());
    let Some(store) = campaign.store() else {
        return Ok("mode disabled needs no lease: nothing was created".to_owned());
    };
    let silent = |_| Failure::new(format!("the lease store ({store}) did not answer: {}", store.advice()));
    let prepared = tokio::time::timeout(LIMIT, store.prepare()).await.map_err(silent)?;
    prepared.map_err(|error| registers::failure(store, &error.into()))?;
    if let Some(from) = fleet.from.as_ref().filter(|_| !fleet.is_at(known)) {
        return Ok(format!(
            "lease {lease} comes from mode {from}: the workers create it, nothing was created"
        ));
    }
    let never_led = known.home.is_none() && known.mark.is_none();
    let mark = known.mark.unwrap_or_default();
    let least = above.unwrap_or_default();
    let how = Init { new: false, above: mark.max(least), max_ttl: campaign.max_ttl() };
    let finding = registers::find_or_make(store, lease, never_led || above.is_some(), how);
    let found = tokio::time::timeout(LIMIT, finding).await.map_err(silent)?;
    match found.map_err(|error| registers::failure(store, &error))? {
        // One N serves all the leases of a chart, of which the store may have lost one.
        FirstRegister::Exists(epoch) => {
            let kept = if epoch < least {
                format!(", below {least}: this store has not lost it")
            } else {
                String::new()
            };
            Ok(format!("lease {lease} exists already, at epoch {epoch}{kept}; nothing was changed"))
        }
        FirstRegister::Made => Ok(format!(
            "lease {lease} was created, closed: candidates take it after watching it for its maximum ttl"
        )),
        FirstRegister::Absent => Err(Failure::new(format!(
            "lease {lease} is not in this store ({store}), and its work was led before: if the store has lost it, run \
             `leasehold init --above {mark} {lease}` (in the chart init.above={mark}); if it lives in another mode's store, \
             set leaderElection.migrateFrom to that mode"
        ))),
    }
}

async fn look(database: &Database, resource: &str) -> Result<Option<KnownWork>, StoreError> {
    match database {
        Database::Sqlite(path) => {
            let pool = database::sqlite(path, false).await?;
            sqlite::look(&mut *pool.acquire().await?, resource).await
        }
        #[cfg(feature = "postgres")]
        Database::Postgres(options) => {
            let pool = Pool::checked(options, 1, LIMIT, DURABLE);
            pool.call(async |connection| postgres::look(connection, resource).await).await
        }
    }
}

async fn forget(database: &Database, resource: &str) -> Result<Option<Home>, StoreError> {
    match database {
        Database::Sqlite(path) => {
            let mut tx = database::sqlite(path, false).await?.begin_with("BEGIN IMMEDIATE").await?;
            let forgotten = sqlite::forget(&mut tx, resource).await?;
            tx.commit().await?;
            Ok(forgotten)
        }
        #[cfg(feature = "postgres")]
        Database::Postgres(options) => {
            let pool = Pool::checked(options, 1, LIMIT, DURABLE);
            pool.call(async |connection| postgres::forget(connection, resource).await).await
        }
    }
}
