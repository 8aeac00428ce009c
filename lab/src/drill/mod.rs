//! `leasehold-lab drill`: what an operator otherwise practises from a checklist: real programs, real signals, a verdict
//! for each check.
//!
//! Each check can be made to fail by `--sabotage`, which breaks what it defends: a drill that can't fail shows nothing.

pub(crate) mod books;
mod demoted;
pub(crate) mod load;
mod mid_batch;
mod multi_pod;
pub(crate) mod pods;
pub(crate) mod report;
mod sabotage;
mod storm;

use std::process::ExitCode;

use lease_stores::Mode;

use crate::demo::stores::DemoStores;

use self::report::DrillReport;

/// Practise an incident on real processes, and judge what they leave behind.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Drill {
    /// The leader is stopped past its ttl in the middle of a batch, and continued.
    #[command(after_help = "Twenty times in a row:
  for run in $(seq 20); do leasehold-lab drill lease-lost-mid-batch || break; done")]
    LeaseLostMidBatch(Args),
    /// Two forwarders, two sweepers and two sidecars under load: the leader of each is killed.
    #[command(after_help = "Twenty times in a row:
  for run in $(seq 20); do leasehold-lab drill multi-pod --mode postgres || break; done")]
    MultiPod(Args),
    /// A standby of Postgres is promoted under load, and the old primary turns read-only with its connections open; then
    /// hostile defaults, rights that are taken away, functions that change.
    Demoted(demoted::Args),
    /// Two of everything on Postgres, under load: kills, stops, cuts and crashes at random, and the books afterwards.
    Storm(storm::Args),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store of the leases and of the data
    #[arg(long, value_enum, default_value = "sqlite")]
    mode: Mode,
    /// Print steps, verdicts and terms as JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// Break something, so that a check must fail (exit code 1)
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

/// A fault that the drill causes, so that one of its checks must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sabotage {
    /// Both stores of effects admit every term: late writes are not refused
    Admission,
    /// A row of the old term gets into the canonical store after the new term's, past the fence
    LateRow,
    /// There is no second forwarder: nobody takes over
    NoSuccessor,
    /// The sweepers' lease has no register: none of them leads (SQLite makes it, the others don't)
    NoRegister,
    /// The sweepers are killed before the load ends: what has expired stays reserved
    NoSweeper,
    /// The old leader is continued within its ttl: it has nothing to warn of
    ShortPause,
    /// An audit row is given an epoch that its writer never held
    StrayEpoch,
    /// The canonical store has lost its unique key: rows do not arrive
    UniqueKey,
}

/// Runs a drill. Dropped, it ends everything that it started.
pub(crate) async fn run(drill: Drill) -> anyhow::Result<ExitCode> {
    let (report, history) = match drill {
        Drill::LeaseLostMidBatch(args) => {
            let (report, stores) = begin("drill lease-lost-mid-batch", &args).await?;
            mid_batch::play(&stores, args.sabotage, &report).await?;
            (report, stores.witness().history().await?)
        }
        Drill::MultiPod(args) => {
            let (report, stores) = begin("drill multi-pod", &args).await?;
            multi_pod::play(&stores, args.sabotage, &report).await?;
            (report, stores.witness().history().await?)
        }
        Drill::Demoted(args) => {
            let report = DrillReport::new("drill demoted", args.json);
            demoted::play(&args, &report).await?;
            (report, Vec::new())
        }
        Drill::Storm(args) => {
            let report = DrillReport::new("drill storm", args.json);
            storm::play(&args, &report).await?;
            // A hundred terms are no timeline.
            (report, Vec::new())
        }
    };
    Ok(crate::exit_code(report.end(&history)?))
}

async fn begin(name: &'static str, args: &Args) -> anyhow::Result<(DrillReport, DemoStores)> {
    let report = DrillReport::new(name, args.json);
    report.step("starting the stores");
    Ok((report, DemoStores::make(args.mode).await?))
}
