//! Which store a run uses, and how a process reaches it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use clap::ValueEnum;
use futures::StreamExt;
use lease_core::{
    BackendError, Capabilities, Change, Connector, Hint, Hints, HistoryRow, LeaseBackend, LeaseName,
    Observation, PutOutcome, Record,
};
use lease_etcd::{Etcd, EtcdConfig};
use lease_k8s::{K8s, K8sConfig};
use lease_postgres::{Postgres, PostgresConfig};
use lease_sqlite::{Sqlite, SqliteConfig};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::sync::Mutex;

use crate::effects::etcd::endpoints;
use crate::trace::{Act, Entry, Outcome, Trace, now};

/// A store that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// One file, several processes on this host.
    Sqlite,
    /// A server of our own, started for the run.
    Postgres,
    /// A cluster of our own, of three nodes, started for the run.
    Etcd,
    /// A control plane of our own, started for the run; the effects in a SQLite file.
    K8s,
}

impl Mode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
            Self::K8s => "k8s",
        }
    }
}

/// Where the leases and the effects are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Store {
    #[arg(long)]
    pub(crate) mode: Mode,
    /// A file, a url, urls with commas between them, or a kubeconfig.
    #[arg(long)]
    pub(crate) leases: String,
    /// Another file, a url, or urls with commas between them.
    #[arg(long)]
    pub(crate) effects: String,
}

impl Store {
    /// As arguments of an actor.
    pub(crate) fn to_args(&self) -> [String; 6] {
        let (leases, effects) = (self.leases.clone(), self.effects.clone());
        ["--mode".into(), self.mode.as_str().into(), "--leases".into(), leases, "--effects".into(), effects]
    }

    /// For an elector.
    pub(crate) fn connector(&self) -> anyhow::Result<Arc<dyn Connector>> {
        Ok(match self.mode {
            Mode::Sqlite => Arc::new(Sqlite::connector(SqliteConfig::new(&self.leases)?)),
            Mode::Postgres => Arc::new(Postgres::connector(PostgresConfig::new(&self.leases)?)),
            Mode::Etcd => Arc::new(Etcd::connector(EtcdConfig::new(endpoints(&self.leases))?)),
            Mode::K8s => Arc::new(K8s::connector(K8sConfig::kubeconfig(Some(PathBuf::from(&self.leases))))),
        })
    }
}

/// A connector whose backend writes down what it is shown and what it sends.
pub(crate) struct Recording {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) trace: Trace,
}

#[async_trait]
impl Connector for Recording {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let backend = self.connector.connect().await?;
        let shown = Mutex::new(None);
        Ok(Arc::new(Recorder(Arc::new(Recorded { backend, trace: self.trace.clone(), shown }))))
    }
}

struct Recorder(Arc<Recorded>);

struct Recorded {
    backend: Arc<dyn LeaseBackend>,
    trace: Trace,
    /// The tag, lineage and beat last shown, as text.
    shown: Mutex<Option<String>>,
}

impl Recorded {
    fn saw(&self, sent: u64, at: u64, observation: &Observation) {
        let Some(record) = &observation.record else { return };
        let beat = format!("{} {:?} {}", observation.lineage, record.grant, record.beat);
        let mut shown = self.shown.lock().expect("not poisoned");
        if shown.as_ref() != Some(&beat) {
            *shown = Some(beat);
            let (epoch, grant, beat) = (record.epoch, record.grant, record.beat);
            self.trace.add(&Entry::Saw { sent, at, epoch, grant, beat });
        }
    }
}

#[async_trait]
impl LeaseBackend for Recorder {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let sent = now();
        let observation = self.0.backend.observe(name).await?;
        self.0.saw(sent, now(), &observation);
        Ok(observation)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let sent = now();
        let result = self.0.backend.put_if(name, expected, record, change).await;
        let answered = now();
        if let Some(act) = Act::of(change) {
            let outcome = match &result {
                Ok(PutOutcome::Written(_)) => Outcome::Written,
                Ok(PutOutcome::Conflict(_)) => Outcome::Refused,
                Err(error) => Outcome::Failed(error.to_string()),
            };
            let (epoch, beat) = (record.epoch, record.beat);
            self.0.trace.add(&Entry::Put { sent, answered, act, epoch, beat, outcome });
        }
        if let Ok(PutOutcome::Written(shown) | PutOutcome::Conflict(shown)) = &result {
            self.0.saw(sent, answered, shown);
        }
        result
    }

    fn capabilities(&self) -> Capabilities {
        self.0.backend.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(LeaseName, Observation)>, BackendError> {
        self.0.backend.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let recorder = self.0.clone();
        let hints = self.0.backend.watch(prefix).await?;
        Ok(Box::pin(hints.inspect(move |hint| {
            if let Hint::Shows(_, observation) = hint {
                let at = now();
                recorder.saw(at, at, observation);
            }
        })))
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.0.backend.history(name, limit).await
    }
}

/// Holds the write lock of an SQLite file for a while, as a backup or a careless shell would.
#[derive(Debug, clap::Args)]
pub(crate) struct HoldLock {
    #[arg(long)]
    file: PathBuf,
    #[arg(long)]
    for_ms: u64,
}

pub(crate) async fn hold_lock(args: HoldLock) -> anyhow::Result<ExitCode> {
    let options = SqliteConnectOptions::new().filename(&args.file).busy_timeout(Duration::from_secs(10));
    let mut connection = options.connect().await.context("cannot open the file")?;
    let transaction = connection.begin_with("BEGIN IMMEDIATE").await.context("cannot lock the file")?;
    println!("locked");
    tokio::time::sleep(Duration::from_millis(args.for_ms)).await;
    transaction.rollback().await?;
    Ok(ExitCode::SUCCESS)
}
