//! `leasehold-lab conformance`: judges a store that somebody runs, in a place of its own that is cleaned up after.

pub(crate) mod actor;
mod etcd;
mod k8s;
mod postgres;
mod sqlite;
mod table;

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use lease_conformance::{CaseReport, EffectError, Harness, Report, Verdict};
use tokio_util::sync::CancellationToken;

use crate::store::Mode;

/// How long cases may take to be dropped: they do nothing that lasts without letting others run.
const STOPPING: Duration = Duration::from_secs(10);

/// Judge a store by the conformance suite: each case of every rule. What the suite makes lies in a schema or folder of
/// its own and is removed afterwards, also after Ctrl-C.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[arg(long, required_unless_present = "table")]
    mode: Option<Mode>,
    /// Judge nothing: print what differs between the stores, as docs/conformance.md has it.
    #[arg(long)]
    table: bool,
    /// Postgres: the server to judge, as the role that would hold leases. Default: a server that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_POSTGRES_URL", hide_env_values = true, value_parser = url)]
    url: Option<String>,
    /// Postgres: the same database as a role that may create schemas, if the first may not.
    #[arg(long, env = "LEASEHOLD_TEST_POSTGRES_ADMIN_URL", hide_env_values = true, value_parser = url)]
    admin_url: Option<String>,
    /// etcd: the nodes' urls with commas between them. Default: a cluster that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_ETCD_ENDPOINTS", hide_env_values = true)]
    endpoints: Option<String>,
    #[command(flatten)]
    etcd: etcd::Named,
    /// k8s: an administrator's kubeconfig; the suite makes a namespace and a service account. Default: a control plane
    /// that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// SQLite: a folder on the file system to judge. Default: the system's folder for temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only the cases whose id contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn names_a_store(&self) -> bool {
        self.url.is_some() || self.endpoints.is_some() || self.kubeconfig.is_some()
    }
}

fn url(text: &str) -> Result<String, String> {
    lease_postgres::PostgresConfig::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(mode) = args.mode.filter(|_| !args.table) else { return table::print() };
    let mut interrupted = pin!(crate::interrupt::interrupted());
    let place = tokio::select! {
        place = place(mode, &args) => place,
        // Of servers that are started for it nothing stays; on somebody's it is brief, and cleaned up after below.
        signal = &mut interrupted, if !args.names_a_store() => {
            eprintln!("interrupted: nothing was made");
            return Ok(ExitCode::from(signal.exit_code()));
        }
    };
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let (cancel, harness) = (CancellationToken::new(), place.clone().harness());
    let (filter, quiet, cancelled) = (args.filter.clone(), args.json, cancel.clone());
    let mut judged = tokio::task::spawn_blocking(move || {
        let done = AtomicUsize::new(0);
        let tell = |case: &CaseReport| {
            let count = done.fetch_add(1, Ordering::SeqCst) + 1;
            if !quiet {
                tell(count, case);
            }
        };
        lease_conformance::report(harness, &filter, tell, &cancelled)
    });
    let judged = tokio::select! {
        judged = &mut judged => Ok(judged?),
        signal = interrupted => {
            cancel.cancel();
            // What is cleaned up must not be made anew by a case that is under way.
            let _ = tokio::time::timeout(STOPPING, judged).await;
            Err(signal)
        }
    };
    let cleaned = place.clean_up().await;
    let judged = match judged {
        Ok(judged) => judged,
        Err(signal) => {
            match cleaned {
                Ok(()) => eprintln!("interrupted: what the suite had made is removed"),
                Err(error) => eprintln!("interrupted: {error:#}"),
            }
            drop(place);
            // Not by returning, which would wait for a case that can't be dropped. Servers are ended by a process beside.
            std::process::exit(signal.exit_code().into());
        }
    };
    cleaned?;
    let report = judged.map_err(|error| anyhow!(error))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        conclude(&report);
    }
    Ok(crate::exit_code(report.is_good()))
}

async fn place(mode: Mode, args: &Args) -> anyhow::Result<Arc<dyn Place>> {
    Ok(match mode {
        Mode::Sqlite => Arc::new(sqlite::Folder::make(args.folder.as_deref())?),
        Mode::Postgres => {
            Arc::new(postgres::Schemas::make(args.url.as_deref(), args.admin_url.as_deref()).await?)
        }
        Mode::Etcd => Arc::new(etcd::Keys::make(args.endpoints.as_deref(), args.etcd.clone()).await?),
        Mode::K8s => Arc::new(k8s::Leases::make(args.kubeconfig.as_deref()).await?),
    })
}

fn tell(count: usize, case: &CaseReport) {
    match &case.verdict {
        Verdict::Passed { seconds } => println!("{count:>4}  ok       {} ({seconds:.1} s)", case.id),
        Verdict::Failed { why } => println!("{count:>4}  FAILED   {}\n      {why}", case.id),
        Verdict::Ignored { because } => println!("{count:>4}  ignored  {}, because {because}", case.id),
    }
}

fn conclude(report: &Report) {
    let (passed, failed, ignored) = report.counts();
    println!("\n{}: {passed} passed, {failed} failed, {ignored} ignored", report.store);
    for case in &report.cases {
        if let Verdict::Failed { why } = &case.verdict {
            println!("  FAILED   {}\n      {why}", case.id);
        }
    }
}

/// Where the suite works, and how that is removed.
#[async_trait::async_trait]
trait Place: Send + Sync {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness>;
    async fn clean_up(&self) -> anyhow::Result<()>;
}

fn failed(error: impl std::fmt::Display) -> EffectError {
    EffectError::Failed(error.to_string())
}
