//! `leasehold-lab torture lock-set`: sets that are updated under a lock whose holders are paused.

mod etcd_lock;
mod lane;
mod lock;
mod report;
mod set;
mod tally;
mod worker;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lease_core::LeaseName;
use lease_judge::actor::EffectOrders;
use lease_stores::Mode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::lane::{TortureState, TorturedSet, generator};
use self::lock::{Guarding, Holding};
use self::report::LockSetReport;
use self::set::SetRow;
use self::tally::Tally;
pub(crate) use self::worker::worker;
use crate::arena::Arena;
use crate::fleet::{ActorPart, Fleet};
use crate::judged::Judged;

/// Update sets by read, thought and write under a lock, and stop (SIGSTOP) each holder for twice its ttl: etcd's own
/// lock and our lease side by side, each with a fence and without, and count the acknowledged updates that are lost
///
/// The workload is Jepsen's for locks. The workers are processes of their own. Each checks that it holds the lock before
/// an update, never within one. On stores other than etcd our lease is played alone.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold-lab torture lock-set --seed 7
  leasehold-lab torture lock-set --mode postgres --updates 500 --json
  leasehold-lab torture lock-set --updates 10000 --time-limit 10m")]
pub(crate) struct Args {
    /// The store of the leases and of the sets
    #[arg(long, value_enum, default_value = "etcd")]
    mode: Mode,
    /// The run ends when this many updates under the fenced lease were acknowledged
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    updates: u64,
    /// Decides when holders are paused. Default: a fresh one, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// The ttl of leases and of etcd's sessions, in whole seconds: 2s to 1m
    #[arg(long, default_value = "2s", value_parser = ttl)]
    ttl: Duration,
    /// The number of sets for each way to guard one, all at once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=16))]
    sets: u64,
    /// The number of processes that update each set
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(2..=8))]
    workers: u64,
    /// Give up after this time
    #[arg(long, default_value = "85s", value_parser = crate::args::duration)]
    time_limit: Duration,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// etcd grants no session a shorter ttl, and none a part of a second.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = crate::args::duration(text)?;
    let allowed = Duration::from_secs(2)..=Duration::from_secs(60);
    let fits = allowed.contains(&ttl) && ttl.subsec_nanos() == 0;
    fits.then_some(ttl).ok_or_else(|| "use whole seconds, 2s to 1m".to_owned())
}

/// The pause between two updates of a worker.
const UPDATE_EVERY: Duration = Duration::from_millis(5);

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("torture lock-set: seed {seed}");
    let mut sets = Vec::new();
    for guarding in Guarding::on(args.mode) {
        for number in 0..args.sets {
            sets.push((guarding, number, LeaseName::new(guarding.set(number))?));
        }
    }
    let names: Vec<_> = sets.iter().map(|(_, _, name)| name.clone()).collect();
    let arena = Arena::start(args.mode, &names, args.ttl).await?;
    for (_, _, name) in sets.iter().filter(|(guarding, ..)| !guarding.fenced) {
        arena.place.admit_everybody(name.as_str()).await?;
    }
    let run = Arc::new(TortureState {
        fleet: Fleet::new()?,
        ttl: args.ttl,
        lease_file: arena.place.lease_file(),
        acknowledged: AtomicU64::new(0),
        pauses: AtomicU64::new(0),
        enough: CancellationToken::new(),
    });
    let (start, mut lanes) = (Instant::now(), JoinSet::new());
    for (guarding, number, name) in sets {
        let part = |workload| ActorPart {
            place: arena.place.clone(),
            lease: name.clone(),
            workload,
            ttl: args.ttl,
            effects: Some(EffectOrders {
                resource: name.to_string(),
                every_ms: Some(UPDATE_EVERY.as_millis() as u64),
                // An update that was paused is seen to its end.
                limit_ms: Some(args.ttl.as_millis() as u64 * 10),
            }),
        };
        let lane = TorturedSet::start(guarding, &name, part, args.workers, run.clone())?;
        let pauses = generator(seed, number);
        lanes.spawn(async move { anyhow::Ok((guarding, name, lane.run(pauses).await?)) });
    }
    let collect = async {
        let mut ended = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            ended.push(lane??);
        }
        anyhow::Ok(ended)
    };
    // A lane that fails ends the run at once.
    let ((), ended) = tokio::try_join!(progress(&args, &run), collect)?;
    let took = start.elapsed();

    let (mut tallies, mut fenced, mut unfenced) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (guarding, name, lane) in ended {
        let mut history = arena.history(&name, lane.events).await?;
        let rows = &mut history.effects[0].admitted;
        let found = Tally::of(rows, &history.events, &lane.pauses)?;
        let sum = tallies.entry(guarding).or_insert_with(Tally::default);
        *sum = sum.and(found);
        for (_, id) in rows {
            // The judge knows an update by its own name.
            if let Some(SetRow::Update { name, .. }) = SetRow::of(id) {
                *id = name.to_owned();
            }
        }
        match guarding {
            Guarding { holding: Holding::Lease, fenced: true } => drop(fenced.insert(name, history)),
            Guarding { holding: Holding::Lease, fenced: false } => drop(unfenced.insert(name, history)),
            _ => {}
        }
    }
    let judged = [Judged::of(&fenced, None), Judged::except(&unfenced, &["L-7"], None)];
    let report = LockSetReport::new(&args, seed, took, tallies, judged);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(crate::exit_code(report.holds))
}

/// Says how far the run is, and ends it.
async fn progress(args: &Args, run: &TortureState) -> anyhow::Result<()> {
    let (start, mut told) = (Instant::now(), Instant::now());
    loop {
        let acknowledged = run.acknowledged.load(Ordering::SeqCst);
        if acknowledged >= args.updates || start.elapsed() > args.time_limit {
            run.enough.cancel();
            return Ok(());
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let (pauses, took) = (run.pauses.load(Ordering::SeqCst), start.elapsed());
            eprintln!(
                "torture lock-set: {acknowledged} of {} updates, {pauses} pauses after {took:.0?}",
                args.updates
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
