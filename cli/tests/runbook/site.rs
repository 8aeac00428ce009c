//! An operator's site: databases, workers, a shell with settings in its environment.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
pub(crate) use lease_testbed::field;
use lease_testbed::{Postgres, PostgresOptions, Process, wait_for};
use lease_worker_common::http_client;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::Command;

/// Generous: the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_leasehold");

pub(crate) struct Site {
    folder: TempDir,
    environment: Vec<(String, String)>,
    pub(crate) ledger: PgPool,
    server: Postgres,
    password: String,
}

/// The result of a shell command.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    code: Option<i32>,
    said: String,
}

impl Site {
    /// The ledger's database with the outbox, canonical-ingest's, and a lease store with both registers.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let server = Postgres::start(PostgresOptions::default()).await?;
        let [leases, ledger, canonical] = [
            server.create_database("leases").await?,
            server.create_database("ledger").await?,
            server.create_database("canonical").await?,
        ];
        let bin = Path::new(BINARY).parent().context("a folder")?.display();
        let path = std::env::var("PATH").unwrap_or_default();
        let environment = [
            ("PATH", format!("{bin}:{path}")),
            ("LEASEHOLD_WORKLOAD_ID", "operator".to_owned()),
            ("SPENDGUARD_LEADER_ELECTION_MODE", "postgres".to_owned()),
            ("SPENDGUARD_LEADER_POSTGRES_URL", leases.clone()),
            ("SPENDGUARD_LEADER_LEASE_TTL_MS", "6000".to_owned()),
            // Whoever steps down holds off for two of these: long enough for the other on a busy machine.
            ("SPENDGUARD_LEADER_RETRY_INTERVAL_MS", "2000".to_owned()),
            ("LEASEHOLD_LEDGER_DATABASE_URL", ledger.clone()),
            ("LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL", ledger.clone()),
            ("LEASEHOLD_TTL_SWEEPER_LEDGER_DATABASE_URL", ledger.clone()),
            ("LEASEHOLD_CANONICAL_INGEST_DATABASE_URL", canonical),
        ];
        let site = Self {
            folder: tempfile::tempdir()?,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            password: format!(":{}@", url::Url::parse(&leases)?.password().context("a password")?),
            ledger: PgPool::connect(&ledger).await?,
            server,
        };
        for line in [
            "leasehold migrate-schema",
            "leasehold init --new outbox-forwarder ttl-sweeper",
            "leasehold worker ledger --migrate --set-budget acme EUR 1000000",
            "leasehold worker canonical-ingest --migrate",
        ] {
            site.sh(line).await?.ok();
        }
        Ok(site)
    }

    /// The lease store is gone, and was made again: tables without a register in them.
    pub(crate) async fn lose_leases(&self) -> anyhow::Result<()> {
        self.server.drop_database("leases").await?;
        self.server.create_database("leases").await?;
        self.sh("leasehold migrate-schema").await?.ok();
        Ok(())
    }

    pub(crate) fn knows(&mut self, variable: &str, value: impl Into<String>) {
        self.environment.push((variable.to_owned(), value.into()));
    }

    /// The lease store is another one, made for the first time.
    pub(crate) async fn has_mode(&mut self, mode: &str) -> anyhow::Result<()> {
        self.knows("SPENDGUARD_LEADER_ELECTION_MODE", mode);
        self.sh("leasehold init --new outbox-forwarder").await?.ok();
        Ok(())
    }

    /// Programs in this folder as well.
    pub(crate) fn finds(&mut self, folder: &Path) {
        let path = self.environment.iter().rev().find(|(name, _)| name == "PATH");
        let path = path.map_or(String::new(), |(_, path)| path.clone());
        self.knows("PATH", format!("{}:{path}", folder.display()));
    }

    /// A program of this text, found before every other of its name.
    pub(crate) fn has_program(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let folder = self.folder.path().join("bin");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), text)?;
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755))?;
        self.finds(&folder);
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn process(&self, args: &[&str]) -> anyhow::Result<lease_testbed::ProcessCommand> {
        let command = Process::command(BINARY)?.env_clear().args(args);
        Ok(self.environment.iter().fold(command, |command, (name, value)| command.env(name, value)))
    }

    /// Somebody who holds a lease and isn't one of the workers.
    pub(crate) fn stranger(&self, lease: &str) -> anyhow::Result<Process> {
        let run = ["run", "--lease", lease, "--workload-id", "stranger", "--"];
        self.process(&[&run[..], &["sh", "-c", "echo held; sleep 600"]].concat())?.spawn()
    }

    /// A worker that has said where its pages are.
    pub(crate) async fn worker(
        &self,
        role: &str,
        name: &str,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Worker> {
        let command = self.process(&["worker", role, "--workload-id", name, "--listen", "127.0.0.1:0"])?;
        let command = more.iter().fold(command, |command, (name, value)| command.env(name, value));
        let process = command.spawn()?;
        let line = process.wait_for_line("started address=", LIMIT).await?;
        Ok(Worker { address: field(&line, "address")?.to_owned(), process })
    }

    /// Runs a line as the shell does.
    pub(crate) async fn sh(&self, line: &str) -> anyhow::Result<Ran> {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().current_dir(self.folder.path()).kill_on_drop(true);
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = tokio::time::timeout(LIMIT, shell.stdin(Stdio::null()).output()).await;
        let output = output.with_context(|| format!("{line} takes too long"))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains(&self.password), "{line}: a password is shown: {said}");
        Ok(Ran { line: line.to_owned(), code: output.status.code(), said })
    }

    /// Starts a line that doesn't end by itself.
    pub(crate) fn spawn(&self, line: &str) -> anyhow::Result<Process> {
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        self.process(&words)?.spawn()
    }

    /// Repeats a line until it succeeds and shows `part`.
    pub(crate) async fn shows(&self, line: &str, part: &str) -> anyhow::Result<Ran> {
        wait_for(&format!("{line} shows {part}"), LIMIT, async || {
            let ran = self.sh(line).await.map_err(|error| format!("{error:#}"))?;
            let shown = ran.code == Some(0) && ran.said.contains(part);
            if shown { Ok(ran) } else { Err(format!("{ran:?}")) }
        })
        .await
    }
}

impl Ran {
    /// The command.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// Went well; what it said.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.said
    }

    /// Went well, and said all of that.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) {
        self.ok();
        self.has(parts);
    }

    /// Went wrong, and said all of that.
    #[track_caller]
    pub(crate) fn fails(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.has(parts);
    }

    /// Said all of that, well or not.
    #[track_caller]
    pub(crate) fn has(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.said.contains(part), "{part:?} is missing: {self:?}");
        }
    }
}

pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Worker {
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = http_client(LIMIT)?.get(format!("http://{}/metrics", self.address)).send().await?;
        let page = page.text().await?;
        let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
        let value = line.and_then(|line| line.rsplit(' ').next());
        Ok(value.with_context(|| format!("no {name}: {page}"))?.parse()?)
    }

    /// Waits until a metric is as told.
    pub(crate) async fn comes_to(&self, name: &str, fits: impl Fn(f64) -> bool) -> anyhow::Result<()> {
        wait_for(name, LIMIT, async || match self.metric(name).await {
            Ok(value) if fits(value) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }
}

/// The number of workers that lead: the sum in the alerts.
pub(crate) async fn leaders(workers: &[Worker], metric: &str) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for worker in workers {
        sum += worker.metric(metric).await?;
    }
    Ok(sum)
}

/// Waits until exactly one leads; returns which.
pub(crate) async fn one_leads(workers: &[Worker], metric: &str) -> anyhow::Result<usize> {
    wait_for("exactly one leads", LIMIT, async || {
        let mut leads = Vec::new();
        for (index, worker) in workers.iter().enumerate() {
            // One that stands still doesn't answer.
            let asked = tokio::time::timeout(Duration::from_secs(5), worker.metric(metric)).await;
            if matches!(asked, Ok(Ok(value)) if value == 1.0) {
                leads.push(index);
            }
        }
        if leads.len() == 1 { Ok(leads[0]) } else { Err(format!("{leads:?}")) }
    })
    .await
}
