//! One command's connection to the lease store. Every call has a time limit.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lease_core::admin::AdminError;
use lease_core::{BackendError, Certainty, Connector, LeaseBackend};
use lease_settings::{App, BadSettings, Failure, LeaderElection, LeaseStore, Together};

use super::settings::Operator;
use crate::modes::must_exist;

/// The store that the settings name, before it is connected.
pub(super) struct Target {
    pub(super) store: LeaseStore,
    pub(super) limit: Duration,
}

/// The connected store.
pub(super) struct Session {
    pub(super) target: Target,
    pub(super) backend: Arc<dyn LeaseBackend>,
}

impl Target {
    /// The store that a lease is moved from.
    pub(super) fn moved_from(app: &App) -> Result<Self, BadSettings> {
        let store = app.migrate_from().and_then(|store| {
            let why = "name the mode that the lease lives in until now, for example --migrate-from postgres";
            store.ok_or_else(|| app.settings().refuse::<LeaderElection>("migrateFrom", why))
        });
        let (store, operator) = (store, app.settings().block::<Operator>()).together()?;
        Ok(Self { store, limit: operator.timeout_ms.into() })
    }

    /// Reads the settings, and checks those of the election too; connects nothing.
    pub(super) fn of(app: &App) -> Result<Self, BadSettings> {
        let settings = app.settings();
        let store = app.store().and_then(|store| {
            let why = "there is no lease store in this mode, so there is nothing to look at or to change; name the \
                       mode of the store that you mean, for example --mode postgres";
            store.ok_or_else(|| settings.refuse::<LeaderElection>("mode", why))
        });
        let checked = (settings.leader_election(), store, settings.block::<Operator>()).together();
        let (_, store, operator) = checked?;
        Ok(Self { store, limit: operator.timeout_ms.into() })
    }

    /// Connects to a store that is there already.
    pub(super) async fn connect(self) -> Result<Session, Failure> {
        must_exist(&self.store).map_err(Failure::new)?;
        self.connect_or_create().await
    }

    /// Connects; a store that is made by opening it may be made.
    pub(super) async fn connect_or_create(self) -> Result<Session, Failure> {
        let backend = self.call(self.store.connect()).await?;
        Ok(Session { target: self, backend })
    }

    /// Makes tables, runs migrations.
    pub(super) async fn prepare(&self) -> Result<Option<String>, Failure> {
        self.call(self.store.prepare()).await
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, BackendError>>) -> Result<T, Failure> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(self.silence()),
        }
    }

    fn explain(&self, error: &BackendError) -> Failure {
        let (store, advice) = (&self.store, self.store.advice());
        Failure::new(if lacks_a_schema(error) {
            format!("the lease store ({store}) refuses: {error:#}: run `leasehold migrate-schema`")
        } else if error.refused {
            format!("the lease store ({store}) refuses: {error:#}")
        } else if error.certainty == Certainty::Unknown {
            format!("the lease store ({store}) failed: {error:#}; {UNKNOWN}")
        } else {
            format!("the lease store ({store}) can't be used: {error:#}; {advice}")
        })
    }

    fn silence(&self) -> Failure {
        let (store, limit, advice) = (&self.store, self.limit, self.store.advice());
        Failure::new(format!(
            "the lease store ({store}) did not answer within {limit:?}: {advice}, or give it longer by --timeout"
        ))
    }
}

const UNKNOWN: &str =
    "it is not known whether the change was made: look with `leasehold status` before you run this again";

impl Session {
    /// One call that changes nothing.
    pub(super) async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Failure> {
        self.target.call(call).await
    }

    /// One of many reads: its failure is one row's, until it is known to be the store's.
    pub(super) async fn read_row<T>(
        &self,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let limit = self.target.limit;
        let silent = || BackendError::not_applied(format!("no answer within {limit:?} (--timeout)"));
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(silent()))
    }

    /// A store's failure for people.
    pub(super) fn explain(&self, error: &BackendError) -> Failure {
        self.target.explain(error)
    }

    /// One change.
    pub(super) async fn change<T>(
        &self,
        call: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.target.limit, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(AdminError::Store(error))) => Err(self.target.explain(&error)),
            Ok(Err(error)) => Err(Failure::new(in_commands(&error))),
            Err(_) => Err(Failure::new(format!("{}; {UNKNOWN}", self.target.silence()))),
        }
    }
}

#[cfg(feature = "postgres")]
fn lacks_a_schema(error: &BackendError) -> bool {
    error.source.as_ref().is_some_and(|source| source.is::<lease_postgres::NotMigrated>())
}

#[cfg(not(feature = "postgres"))]
fn lacks_a_schema(_: &BackendError) -> bool {
    false
}

/// The library's error, where the way out is one of our commands.
fn in_commands(error: &AdminError) -> String {
    match error {
        AdminError::Absent(name) => {
            format!(
                "there is no lease {name} in this store: check the name and the store (`leasehold status` shows what is \
                 there); if both are right, `leasehold init {name}` creates it"
            )
        }
        AdminError::NobodyToHoldOff(name) => {
            format!("lease {name} names no holder that could hold off: name one by --except")
        }
        AdminError::ExistsBelow(name, epoch, above) => {
            format!(
                "lease {name} exists at epoch {epoch}: use `leasehold fence raise --above {above}` instead"
            )
        }
        error => error.to_string(),
    }
}
