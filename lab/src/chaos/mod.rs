//! `leasehold-lab chaos`: real processes, real faults, and a judgement from outside.

mod cell;
mod plan;
mod report;
mod store;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lease_core::LeaseName;
use lease_judge::history::{HistoryEntry, What};
use lease_stores::{Mode, Place};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cell::{Cell, CellState, Chronicle};
use self::plan::{ChaosPlan, StorePlan};
use self::report::ChaosReport;
use crate::arena::Arena;
use crate::fleet::{ActorPart, Fleet};

/// Kill, stop, pause and cut off real processes at random, crash their store, and judge the history that they leave,
/// and everything that was seen from outside, by every invariant of the protocol.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[arg(long)]
    mode: Mode,
    /// The run ends when this many terms have been seen in all.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    takeovers: u64,
    /// Decides the faults, their victims and their order. Default: a fresh one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The leases' ttl: 500ms to 1m.
    #[arg(long, default_value = "1s", value_parser = ttl)]
    ttl: Duration,
    /// The number of processes that campaign for each lease.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=20))]
    actors: u64,
    /// The number of leases, all at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=32))]
    leases: u64,
    /// Replace the schema's admission by one that always admits: stale effects must then show (exit code 0 if so).
    #[arg(long)]
    sabotage_admission: bool,
    /// Give up after this time. Default: one minute and 2 s for each takeover.
    #[arg(long, value_parser = crate::args::duration)]
    time_limit: Option<Duration>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = crate::args::duration(text)?;
    let allowed = Duration::from_millis(500)..=Duration::from_secs(60);
    allowed.contains(&ttl).then_some(ttl).ok_or_else(|| "use 500ms to 1m".to_owned())
}

/// The pause between a leader's effects.
const EFFECT_EVERY: Duration = Duration::from_millis(30);

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let start = Instant::now();
    eprintln!("chaos: seed {seed}");
    let fleet = Fleet::new()?;
    let leases: Vec<_> =
        (0..args.leases).map(|index| LeaseName::new(format!("lease-{index}"))).collect::<Result<_, _>>()?;
    let arena = Arena::start(args.mode, &leases, args.ttl).await?;
    if args.sabotage_admission {
        for lease in &leases {
            arena.place.admit_everybody(lease.as_str()).await?;
        }
    }
    let enough = CancellationToken::new();
    let shared =
        Arc::new(CellState { fleet, ttl: args.ttl, takeovers: AtomicUsize::new(0), enough: enough.clone() });

    let mut cells = JoinSet::new();
    for (index, lease) in leases.iter().enumerate() {
        let part = |actor: u64, place: Place| ActorPart {
            place,
            lease: lease.clone(),
            // The last two share a name, as two pods of a careless deployment would.
            workload: format!("{lease}/{}", actor.min(args.actors - 2)),
            ttl: args.ttl,
            effects: ActorPart::effects_on(lease, Some(EFFECT_EVERY)),
        };
        let mut parts = Vec::new();
        for actor in 0..args.actors {
            let linked = arena.store.link()?;
            let (link, place) =
                linked.map_or((None, arena.place.clone()), |(link, place)| (Some(link), place));
            parts.push((part(actor, place), link));
        }
        let linked = parts.iter().all(|(_, link)| link.is_some());
        let cell = Cell::new(lease.clone(), parts, shared.clone());
        let (lease, plan) = (lease.clone(), ChaosPlan::new(seed, index, linked));
        cells.spawn(async move { cell.run(plan).await.map(|chronicle| (lease, chronicle)) });
    }
    let limit = args.time_limit.unwrap_or(Duration::from_secs(60 + 2 * args.takeovers));
    let store_plan = StorePlan::new(seed, arena.store.faults(), args.ttl);
    let (store_faults, observed, chronicles) = tokio::join!(
        async {
            let faults = store::break_by(&arena, store_plan, &enough).await;
            if let Err(error) = &faults {
                // Without its store the run could only stand still until its time limit.
                eprintln!("chaos: the store could not be broken, or did not come back: {error:#}");
                enough.cancel();
            }
            faults
        },
        store::observe(&arena, &leases, &enough),
        async {
            let progress = progress(&shared, args.takeovers as usize, limit);
            let chronicles = collect(&mut cells);
            let (chronicles, ()) = tokio::join!(chronicles, progress);
            chronicles
        },
    );
    let (store_faults, observed, mut chronicles) = (store_faults?, observed?, chronicles?);
    let took = start.elapsed();

    for (lease, chronicle) in &mut chronicles {
        let mut events = std::mem::take(&mut chronicle.history.events);
        events.extend(observed.history(lease).events);
        events.extend(store_faults.iter().map(|(fault, from, _)| HistoryEntry {
            at: *from,
            actor: "store".to_owned(),
            what: What::Fault { name: fault.name().to_owned() },
        }));
        chronicle.history = arena.history(lease, events).await?;
    }
    let report = ChaosReport::new(&args, seed, took, store_faults, chronicles);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(crate::exit_code(report.holds))
}

/// Says how far the run is, and ends it.
async fn progress(shared: &CellState, wanted: usize, limit: Duration) {
    let start = Instant::now();
    let mut told = start;
    loop {
        let seen = shared.takeovers.load(Ordering::SeqCst);
        if shared.enough.is_cancelled() || seen >= wanted || start.elapsed() > limit {
            shared.enough.cancel();
            return;
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            eprintln!("chaos: {seen} of {wanted} takeovers after {:.0?}", start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn collect(
    cells: &mut JoinSet<anyhow::Result<(LeaseName, Chronicle)>>,
) -> anyhow::Result<BTreeMap<LeaseName, Chronicle>> {
    let mut chronicles = BTreeMap::new();
    while let Some(cell) = cells.join_next().await {
        let (lease, chronicle) = cell??;
        chronicles.insert(lease, chronicle);
    }
    Ok(chronicles)
}
