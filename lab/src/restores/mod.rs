//! `leasehold-lab restores`: a store is restored from a backup under a live fleet, and the fleet is judged.

mod etcd;
mod k8s;
mod play;
mod postgres;
mod report;
mod round;
mod site;
mod sqlite;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use lease_stores::Mode;
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::report::RestoresReport;
use self::round::{ROUNDS, Round};
use self::site::RestoreKind;
use crate::fleet::Fleet;

/// Restore a store from a backup by each usual way, under processes that lead and stand by, and judge what they did
///
/// Each restore is played with a holder that is cut off and one that is alive, and with a standby that saw everything,
/// one that stopped looking at the very beat that is restored, and one that starts after `leasehold restored`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store
    #[arg(long)]
    mode: Mode,
    /// Only these ways to restore it
    #[arg(long, value_delimiter = ',')]
    kind: Vec<String>,
    /// The number of times that each is played
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    times: u64,
    /// Makes the same choices again: who is cut off by what, and when
    #[arg(long)]
    seed: Option<u64>,
    /// The leases' ttl. Default: several times as long as a restore takes
    #[arg(long, value_parser = crate::args::duration)]
    ttl: Option<Duration>,
    /// The number of restores that are played at once, each on servers of its own
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=32))]
    at_once: u64,
    /// Leave out `leasehold restored`: two must then lead at once (exit code 0 if so)
    #[arg(long)]
    sabotage: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn kinds(mode: Mode) -> (Vec<RestoreKind>, Duration) {
    let (kinds, ttl_secs) = match mode {
        Mode::Sqlite => (sqlite::kinds(), 3),
        Mode::Postgres => (postgres::kinds(), 6),
        Mode::Etcd => (etcd::kinds(), 6),
        Mode::K8s => (k8s::kinds(), 15),
    };
    (kinds, Duration::from_secs(ttl_secs))
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (mut kinds, ttl) = kinds(args.mode);
    let ttl = args.ttl.unwrap_or(ttl);
    if let Some(unknown) = args.kind.iter().find(|name| kinds.iter().all(|kind| kind.name != **name)) {
        let known: Vec<_> = kinds.iter().map(|kind| format!("{} ({})", kind.name, kind.about)).collect();
        eprintln!("error: mode {} has no kind {unknown:?}; use {}", args.mode.as_str(), known.join(", "));
        return Ok(ExitCode::from(2));
    }
    // An absent register is waited for in any case.
    kinds.retain(|kind| !(args.sabotage && kind.loses_registers));
    kinds.retain(|kind| args.kind.is_empty() || args.kind.iter().any(|name| name == kind.name));
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("restores: seed {seed}");
    let fleet = Arc::new(Fleet::new()?);
    let mut rounds = Vec::new();
    for number in 1..=args.times {
        for kind in &kinds {
            for standbys in ROUNDS.iter().skip(usize::from(args.sabotage)) {
                let (kind, sabotaged) = (kind.clone(), args.sabotage);
                rounds.push(Round { kind, number, standbys, ttl, sabotaged });
            }
        }
    }
    let played = stream::iter(rounds.iter().enumerate()).map(async |(index, round)| {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(index as u64));
        round.play(&fleet, &mut random).await.map(|end| (round, end))
    });
    let ends: Vec<_> = played.buffered(args.at_once as usize).try_collect().await?;
    let report = RestoresReport::new(args.mode, seed, ttl, ends, args.sabotage);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(crate::exit_code(report.holds))
}
