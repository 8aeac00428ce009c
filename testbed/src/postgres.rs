//! A real PostgreSQL server in a throw-away folder, and the means to break it.

mod access;
mod archive;
mod backup;
mod binaries;
mod options;
mod pgbouncer;
mod postmaster;
mod replication;
mod server;
mod settings;
mod tablespace;
mod template;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use self::{access::Access, binaries::PostgresBinaries, postmaster::Postmaster, settings::ServerSettings};
pub use self::{
    archive::WalArchive,
    options::{PostgresOptions, StandbyOptions},
    pgbouncer::PgBouncer,
    server::PostgresServer,
};
use crate::{certificates::Certificates, ports::ReservedPort, supervisor::Folder, wait::wait_until};

const SUPERUSER: &str = "postgres";

/// Not a secret: the server is reachable from this machine only, and holds no data of value.
const PASSWORD: &str = "testbed";

const HBA: &str = "\
local all,replication all scram-sha-256
host  all,replication all 127.0.0.1/32 scram-sha-256
";

/// A PostgreSQL server of our own, on a free port of 127.0.0.1 and a unix socket.
///
/// Dropping it stops it at once (`immediate`, without a last checkpoint) and removes its
/// folder, which blocks for some ten milliseconds; [`stop_fast`](Self::stop_fast) before is the async way. It may
/// be shared by tests with runtimes of their own, in a static too: whatever ends the process ends the server.
///
/// As root, the server runs as the system's user `postgres` or `nobody`.
pub struct Postgres {
    // Fields are dropped in this order: the processes, then their folder.
    state: Mutex<State>,
    folder: Folder,
    data: PathBuf,
    port: ReservedPort,
    binaries: PostgresBinaries,
    access: Access,
    archive: Option<WalArchive>,
    certificates: Option<Certificates>,
}

#[derive(Debug)]
struct State {
    postmaster: Option<Postmaster>,
    settings: ServerSettings,
    synchronous: Vec<String>,
    /// The number of copies that were made of its data.
    copies: u64,
}

impl Postgres {
    /// Starts a server and waits until it takes connections: about 0.3 s, the first time about 1 s more.
    ///
    /// The empty cluster is copied from a template in `$LEASEHOLD_CACHE`, `$XDG_CACHE_HOME/leasehold` or
    /// `~/.cache/leasehold`, which is made if it is missing.
    ///
    /// # Errors
    /// When PostgreSQL isn't installed (the message says what to install), or doesn't start (the message has the
    /// end of its log).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// use lease_testbed::{Postgres, PostgresOptions};
    /// let postgres = Postgres::start(PostgresOptions::default()).await?;
    /// postgres.create_role("worker", "secret").await?;
    /// postgres.create_database("one_test").await?;
    /// let url = postgres.url_for("one_test", "worker", "secret");
    /// assert_eq!(url, format!("postgres://worker:secret@127.0.0.1:{}/one_test", postgres.port()));
    /// # Ok(()) }
    /// ```
    pub async fn start(options: PostgresOptions) -> anyhow::Result<Self> {
        let binaries = PostgresBinaries::find()?;
        let folder = Folder::new("postgres")?;
        binaries.user.own(folder.path())?;
        let data = template::data_folder(&binaries, &folder, options.fresh_system_identifier).await?;
        let mut settings = options.settings;
        let certificates = options.tls.then(|| Certificates::make(folder.path())).transpose()?;
        if let Some(certificates) = &certificates {
            let (certificate, key) = certificates.server();
            // PostgreSQL refuses a key that others can read.
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
            [&certificate, &key].into_iter().try_for_each(|file| binaries.user.own(file))?;
            settings.set("ssl".into(), "on".into());
            settings.path("ssl_cert_file", &certificate);
            settings.path("ssl_key_file", &key);
        }
        let mut postgres = Self::launch(binaries, folder, data, settings, options.archive).await?;
        postgres.certificates = certificates;
        Ok(postgres)
    }

    async fn launch(
        binaries: PostgresBinaries,
        folder: Folder,
        data: PathBuf,
        mut settings: ServerSettings,
        archive: Option<WalArchive>,
    ) -> anyhow::Result<Self> {
        let port = ReservedPort::new().context("no free port")?;
        binaries.user.write(&folder.path().join("pg_hba.conf"), HBA)?;
        settings.set("port".into(), port.number().to_string());
        settings.set("listen_addresses".into(), "127.0.0.1".into());
        settings.path("unix_socket_directories", folder.path());
        // Otherwise a killed server leaves files in /dev/shm.
        settings.set("dynamic_shared_memory_type".into(), "mmap".into());
        if let Some(archive) = &archive {
            archive.configure(&mut settings);
        }
        let access = Access::new(&format!(
            "postgres://{SUPERUSER}:{PASSWORD}@127.0.0.1:{}/{SUPERUSER}",
            port.number()
        ))?;
        let state = Mutex::new(State { postmaster: None, settings, synchronous: Vec::new(), copies: 0 });
        let postgres = Self { state, folder, data, port, binaries, access, archive, certificates: None };
        postgres.start_again().await?;
        Ok(postgres)
    }

    /// A superuser's url, with its password, for the database `postgres`.
    pub fn url(&self) -> String {
        self.access.url()
    }

    /// A url for a database, a role and its password.
    pub fn url_for(&self, database: &str, user: &str, password: &str) -> String {
        self.access.url_for(database, user, password)
    }

    /// A superuser's url for a database.
    pub fn superuser_url_for(&self, database: &str) -> String {
        self.access.url_for(database, SUPERUSER, PASSWORD)
    }

    /// Its port on 127.0.0.1, the same after every restart.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The address on which it listens, and for a proxy in front of it.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The folder with its unix socket, for the same [`port`](Self::port).
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The authority that signed its certificate, if it was started with [`PostgresOptions::tls`].
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Its log, over all of its restarts.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn logs(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_path())?).into_owned())
    }

    /// Runs SQL as superuser in the database `postgres`, each statement in a transaction of its own; returns rows
    /// as lines, with `|` between columns.
    ///
    /// # Errors
    /// The server's message for the first statement that fails (the later ones are not run), or no answer for
    /// 60 s. Dropping the future ends the session; statements that were sent may still be executed.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.access.run(sql).await
    }

    /// As [`psql`](Self::psql), in another database.
    ///
    /// # Errors
    /// As there.
    pub async fn psql_in(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        self.access.run_in(database, sql).await
    }

    /// Creates a database, for a test of its own on a shared server; returns a superuser's url for it.
    ///
    /// # Errors
    /// When it exists.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.access.create_database(name).await
    }

    /// Drops a database and breaks its connections; one that doesn't exist is no error.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.access.drop_database(name).await
    }

    /// Creates a role that may log in by password, and nothing else.
    ///
    /// # Errors
    /// When it exists.
    pub async fn create_role(&self, name: &str, password: &str) -> anyhow::Result<()> {
        self.access.create_role(name, password).await
    }

    /// Changes a setting of `postgresql.conf`, for restarts too, and returns when every new session has it and the
    /// checkpointer as well. Sessions that are open have it from their next statement on.
    ///
    /// # Errors
    /// When the server doesn't run or takes no connections. A setting that needs a restart waits for one.
    pub async fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let before = self.psql("select pg_conf_load_time()").await?;
        self.lock().settings.set(name.to_owned(), value.to_owned());
        self.write_conf()?;
        self.postmaster(|postmaster| postmaster.signal(Signal::HUP))?;
        let sql = format!("select pg_conf_load_time() > {}", access::literal(&before));
        let limit = std::time::Duration::from_secs(30);
        wait_until("postgres has reloaded its settings", limit, async || {
            self.psql(&sql).await.is_ok_and(|newer| newer == "t")
        })
        .await?;
        // The checkpointer decides for all sessions whether commits wait for standbys. It reloads its settings before
        // it answers this request.
        self.psql("checkpoint").await?;
        Ok(())
    }

    /// Whether its postmaster runs; a paused one does.
    pub fn is_running(&self) -> bool {
        let mut state = self.lock();
        state.postmaster.as_mut().is_some_and(|postmaster| !postmaster.has_ended().unwrap_or(true))
    }

    /// Kills all of its processes by SIGKILL, at once, and returns when they have ended. The data folder stays as it
    /// is at that moment: [`start_again`](Self::start_again) recovers from it.
    ///
    /// # Errors
    /// When the server doesn't run.
    pub async fn crash(&self) -> anyhow::Result<()> {
        let pids = self.postmaster(Postmaster::kill_all)?;
        self.ended().await?;
        postmaster::all_ended(&pids).await
    }

    /// Ends it as `pg_ctl stop -m fast` does: open transactions are rolled back, all data is written.
    ///
    /// # Errors
    /// When the server doesn't run, or doesn't end within 60 s: a paused standby keeps its primary from ending.
    pub async fn stop_fast(&self) -> anyhow::Result<()> {
        self.postmaster(|postmaster| postmaster.signal(Signal::INT))?;
        self.ended().await
    }

    /// Starts it again after a crash or a stop, on the same port, and waits until it takes connections.
    ///
    /// # Errors
    /// When the server runs, or doesn't start.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("postgres runs already: stop or crash it first");
        }
        self.write_conf()?;
        let (conf, hba) = (self.conf_path(), self.folder.path().join("pg_hba.conf"));
        let postmaster = Postmaster::spawn(&self.binaries, &self.data, &conf, &hba, &self.log_path())?;
        self.lock().postmaster = Some(postmaster);
        let ready = postmaster::ready(|| self.postmaster(Postmaster::is_ready)).await;
        ready.with_context(|| format!("PostgreSQL did not start; the end of its log:\n{}", self.log_tail()))
    }

    /// [`stop_fast`](Self::stop_fast), then [`start_again`](Self::start_again).
    ///
    /// # Errors
    /// As theirs.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop_fast().await?;
        self.start_again().await
    }

    /// SIGSTOP to all of its processes; returns when none of them executes anything. Its connections stay open, and
    /// the kernel still accepts new ones.
    ///
    /// # Errors
    /// When the server doesn't run.
    pub async fn pause(&self) -> anyhow::Result<()> {
        let pids = self.postmaster(|postmaster| postmaster.stop_all())?;
        postmaster::all_stopped(&pids).await
    }

    /// SIGCONT to all of its processes.
    ///
    /// # Errors
    /// When the server doesn't run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.postmaster(|postmaster| postmaster.resume_all())
    }

    async fn ended(&self) -> anyhow::Result<()> {
        postmaster::ended(|| self.postmaster(Postmaster::has_ended)).await?;
        self.lock().postmaster = None;
        Ok(())
    }

    fn postmaster<T>(&self, act: impl FnOnce(&mut Postmaster) -> anyhow::Result<T>) -> anyhow::Result<T> {
        act(self.lock().postmaster.as_mut().context("postgres does not run: start it again first")?)
    }

    fn write_conf(&self) -> anyhow::Result<()> {
        let conf = self.lock().settings.to_conf();
        self.binaries.user.write(&self.conf_path(), &conf)
    }

    fn conf_path(&self) -> PathBuf {
        self.folder.path().join("postgresql.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log_tail(&self) -> String {
        let log = self.logs().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres")
            .field("port", &self.port())
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.lock().postmaster = None;
        postmaster::free_shared_memory(&self.data);
    }
}
