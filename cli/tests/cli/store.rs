//! A real lease store for one test, and holders of its leases.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{
    Change, Connector, Elector, Ended, Grant, LeaseBackend, LeaseName, PutOutcome, RunError, Term, WorkloadId,
};
use lease_postgres::{Postgres as PostgresBackend, PostgresConfig};
use lease_sqlite::{Sqlite, SqliteConfig};
use lease_testbed::{Postgres, PostgresOptions, Process, ProcessCommand};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::common::{Leasehold, Ran};

/// Nothing here takes that long, unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Store {
    pub(crate) cli: Leasehold,
    server: Option<Postgres>,
}

impl Store {
    pub(crate) async fn sqlite() -> Self {
        Self { cli: Leasehold::sqlite(), server: None }
    }

    pub(crate) async fn postgres() -> Self {
        let server = Postgres::start(PostgresOptions::default()).await.expect("a server");
        let cli = Leasehold::bare()
            .with("SPENDGUARD_LEADER_ELECTION_MODE", "postgres")
            .with("SPENDGUARD_LEADER_POSTGRES_URL", &server.url());
        Self { cli, server: Some(server) }
    }

    /// A store of another's, reached in another way.
    pub(crate) fn reached_by(cli: Leasehold) -> Self {
        Self { cli, server: None }
    }

    pub(crate) fn server(&self) -> &Postgres {
        self.server.as_ref().expect("this store is a server")
    }

    /// Runs the binary to its end, without blocking the runtime.
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        let mut command = tokio::process::Command::from(self.cli.command(args));
        let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output());
        let output = output.await.expect("ends in time").expect("the binary starts");
        Ran {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the binary.
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        self.command(args).spawn().expect("the binary starts")
    }

    pub(crate) fn command(&self, args: &[&str]) -> ProcessCommand {
        let command = Process::command(Leasehold::binary()).expect("the binary").args(args).env_clear();
        let command = self.cli.environment().fold(command, |command, (name, value)| command.env(name, value));
        command.current_dir(self.cli.folder.path())
    }

    fn connector(&self) -> Box<dyn Connector> {
        match &self.server {
            Some(server) => {
                Box::new(PostgresBackend::connector(PostgresConfig::new(&server.url()).expect("a url")))
            }
            None => {
                Box::new(Sqlite::connector(SqliteConfig::new(self.cli.path("leases.db")).expect("a path")))
            }
        }
    }

    pub(crate) async fn backend(&self) -> Arc<dyn LeaseBackend> {
        self.connector().connect().await.expect("a backend")
    }

    /// A holder that works until it is told to stop, with a ttl of 3 s.
    pub(crate) fn candidate(&self, workload: &str) -> Holder {
        self.candidate_with(workload, Duration::from_secs(3))
    }

    pub(crate) fn candidate_with(&self, workload: &str, ttl: Duration) -> Holder {
        let connector: Arc<dyn Connector> = self.connector().into();
        let connect = move || {
            let connector = connector.clone();
            async move { connector.connect().await }
        };
        let elector = Elector::builder(connect, name(), WorkloadId::new(workload).expect("a name"))
            .ttl(ttl)
            .build()
            .expect("an elector");
        let (tell, terms) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(elector.run_until(
            async move {
                let _ = stopped.await;
            },
            move |leadership| {
                let tell = tell.clone();
                async move {
                    let _ = tell.send(leadership.term()).await;
                    leadership.stop_requested().await;
                    Ok(())
                }
            },
        ));
        Holder { terms, stop, task }
    }

    /// A term whose holder never writes again.
    pub(crate) async fn silent_holder(&self, workload: &str, ttl: Duration) -> Grant {
        let backend = self.backend().await;
        let seen = backend.observe(&name()).await.expect("a look");
        let before = seen.record.clone().expect("a register");
        let who = Candidate {
            holder: workload.to_owned(),
            region: "eu-1".to_owned(),
            ttl,
            max_ttl: ttl,
            preemptible: false,
            work: None,
        };
        let fresh = Fresh::random();
        let record = writes::acquire(&seen, &before, &who, fresh.grant, &fresh);
        let put = backend.put_if(&name(), &seen, &record, Change::Acquire).await.expect("a write");
        assert!(matches!(put, PutOutcome::Written(_)), "{put:?}");
        fresh.grant
    }
}

pub(crate) struct Holder {
    terms: mpsc::Receiver<Term>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Ended, RunError<Infallible>>>,
}

impl Holder {
    /// Its next term.
    pub(crate) async fn leads(&mut self) -> Term {
        tokio::time::timeout(LIMIT, self.terms.recv()).await.expect("leads in time").expect("a term")
    }

    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let ended = tokio::time::timeout(LIMIT, self.task).await.expect("stops in time").expect("no panic");
        assert!(matches!(ended, Ok(Ended::Shutdown)), "{ended:?}");
    }
}

pub(crate) fn name() -> LeaseName {
    LeaseName::new("outbox-forwarder").expect("a name")
}
