//! `leasehold-lab upgrade`: an earlier `leasehold` and this one side by side, under faults, on every store.

mod old;
mod play;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lease_core::LeaseName;
use lease_judge::invariants;
use lease_stores::Mode;
use serde::Serialize;

use self::play::{UpgradeOutcome, play};
pub(crate) use self::writer::writer;
use crate::campaign::CampaignCounts;
use crate::judged::{Judged, RuleVerdict};

/// Let an earlier `leasehold run` and this one take a lease over from each other, again and again, by kills, stops and
/// hand-overs; judge what their commands left in a fenced store
///
/// The earlier one makes the store's tables and registers; this one migrates them while the earlier one leads.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold-lab upgrade                                 builds the first version with all four stores: minutes
  leasehold-lab upgrade --commit b8a9082 --mode postgres
  leasehold-lab upgrade --old /opt/leasehold-0.1/leasehold --rounds 50")]
pub(crate) struct Args {
    /// The earlier program. Default: it is built from the repository's history
    #[arg(long)]
    old: Option<PathBuf>,
    /// The commit to build it from
    #[arg(long, default_value = old::FIRST, conflicts_with = "old")]
    commit: String,
    /// The stores, one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sqlite,postgres,etcd,k8s")]
    mode: Vec<Mode>,
    /// The leases' ttl
    #[arg(long, default_value = "2s", value_parser = crate::args::duration)]
    ttl: Duration,
    /// The faults on each store; each ends a term
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(6..=10_000))]
    rounds: u64,
    /// Decides the faults. Default: a fresh one, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct UpgradeReport {
    holds: bool,
    repeat: String,
    seed: u64,
    took_secs: f64,
    campaign: CampaignCounts,
    stores: Vec<StoreReport>,
}

#[derive(Debug, Serialize)]
struct StoreReport {
    mode: &'static str,
    /// Changes of holder by who led before and who after.
    followed: BTreeMap<String, usize>,
    faults: BTreeMap<&'static str, usize>,
    claims: Vec<RuleVerdict>,
    #[serde(flatten)]
    judged: Judged,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("upgrade: seed {seed}");
    let old = match &args.old {
        Some(old) => old.clone(),
        None => old::build(&args.commit).await?,
    };
    let (start, mut stores, mut campaign) = (Instant::now(), Vec::new(), CampaignCounts::default());
    for mode in &args.mode {
        eprintln!("upgrade: {} after {:.0?}", mode.as_str(), start.elapsed());
        let played = play(*mode, &old, args.ttl, args.rounds, seed).await?;
        campaign.acquisitions += played.followed.values().sum::<usize>() + 1;
        campaign.faults += played.faults.values().sum::<usize>();
        stores.push(report(*mode, played)?);
    }
    let which = args
        .old
        .as_ref()
        .map_or(format!("--commit {}", args.commit), |old| format!("--old {}", old.display()));
    let modes: Vec<_> = args.mode.iter().map(|mode| mode.as_str()).collect();
    let claims_hold = |store: &StoreReport| store.claims.iter().all(|claim| claim.holds == Some(true));
    let report = UpgradeReport {
        holds: stores.iter().all(|store| claims_hold(store) && store.judged.holds()),
        repeat: format!(
            "leasehold-lab upgrade {which} --mode {} --ttl {}s --rounds {} --seed {seed}",
            modes.join(","),
            args.ttl.as_secs(),
            args.rounds
        ),
        seed,
        took_secs: start.elapsed().as_secs_f64(),
        campaign,
        stores,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(crate::exit_code(report.holds))
}

/// The guards tell no history of their own: what the store and the fence have is judged.
const JUDGED: [&str; 2] = ["L-2", "L-7"];

fn report(mode: Mode, played: UpgradeOutcome) -> anyhow::Result<StoreReport> {
    let UpgradeOutcome { followed, faults, history, migrated_in_term, field_is_kept } = played;
    let left_out = invariants::ALL.iter().map(|invariant| invariant.rule);
    let left_out: Vec<_> = left_out.filter(|rule| !JUDGED.contains(rule)).collect();
    let judged = Judged::except(&BTreeMap::from([(LeaseName::new(play::LEASE)?, history)]), &left_out, None);
    let after = |order: &str| followed.get(order).copied().unwrap_or_default();
    let claim =
        |holds, claim: &str, found: String| RuleVerdict { holds: Some(holds), claim: claim.into(), found };
    let (forth, back) = (after(play::OLD_THEN_NEW), after(play::NEW_THEN_OLD));
    let claims = vec![
        claim(forth > 0 && back > 0, "each takes over from the other", format!("{forth} and {back} times")),
        claim(
            migrated_in_term,
            "the new program makes the store ready while the old one leads, whose term goes on",
            if migrated_in_term { "it went on" } else { "it ended" }.into(),
        ),
        claim(
            field_is_kept,
            "a field of the record that neither knows is kept by both",
            if field_is_kept { "it is there" } else { "it is gone" }.into(),
        ),
    ];
    Ok(StoreReport { mode: mode.as_str(), followed, faults, claims, judged })
}

impl fmt::Display for UpgradeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "An earlier leasehold and this one side by side: {:.0} s, seed {}",
            self.took_secs, self.seed
        )?;
        for StoreReport { mode, followed, faults, claims, judged } in &self.stores {
            writeln!(f, "\n{mode}")?;
            followed.iter().try_for_each(|(order, count)| writeln!(f, "{count:>6}  {order}"))?;
            faults.iter().try_for_each(|(fault, count)| writeln!(f, "{count:>6}  {fault}"))?;
            claims.iter().try_for_each(|claim| writeln!(f, "{claim}"))?;
            write!(f, "{judged}")?;
        }
        writeln!(f, "\nRepeat with: {}", self.repeat)
    }
}
