//! `leasehold-lab attack`: everything that `leasehold run` is made of is stopped and killed, and its commands say
//! themselves when they ran (G-1 to G-3).

mod command;
mod lease;
mod plan;
mod programs;
mod slices;
mod sys;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lease_testbed::{Postgres, PostgresOptions};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::command::attacked;
use self::lease::{AttackedLease, LaneReport};
use self::programs::AttackPrograms;
use self::slices::Overlap;
use crate::campaign::CampaignCounts;

/// Stop, kill and signal guards, watchdogs, keepers and commands of `leasehold run` in any mix, and judge by the time
/// slices that the commands' processes left behind: never do two terms' commands run at the same time
///
/// The commands fork, hop from process to process, become daemons and are deaf to SIGTERM. As root, every other lease
/// has guards that run as nobody.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store
    #[arg(long)]
    mode: AttackMode,
    /// The length of the run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Decides the faults, their victims and their order. Default: a fresh one, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// The leases' ttl: one, or one for each lease between two
    #[arg(long, default_value = "1s..2s", value_parser = ttls)]
    ttl: RangeInclusive<Duration>,
    /// The number of leases, all at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=32))]
    leases: u64,
    /// Leave out isolation and the watchdog's timer: overlaps must show then (exit code 0 if so)
    #[arg(long)]
    without_watchdog: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum AttackMode {
    Sqlite,
    Postgres,
}

/// A guard's last words when it gave the proof of its command's death up (G-2): its lease ran out, as promised.
const UNPROVEN: &str = "could not be proven dead within the stop budget";
/// What a guard says whose keeper or watchdog was killed before it was ready: nothing has run yet, and the exit code is
/// right (`a_watchdog_that_is_killed_at_its_start_leads_to_no_lesser_isolation`).
const AT_ITS_START: [&str; 2] =
    ["the keeper died at its start", "the keeper can't be started: the watchdog is dead"];

/// Overlaps are shown up to this number.
const SHOWN: usize = 12;

fn ttls(text: &str) -> Result<RangeInclusive<Duration>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let (from, to) = (crate::args::duration(from)?, crate::args::duration(to)?);
    let allowed = Duration::from_millis(500)..=Duration::from_secs(60);
    let fits = allowed.contains(&from) && allowed.contains(&to) && from <= to;
    fits.then_some(from..=to).ok_or_else(|| "use one of 500ms to 1m, or a range as 1s..2s".to_owned())
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("attack: seed {seed}");
    let postgres = match args.mode {
        AttackMode::Postgres => Some(Postgres::start(PostgresOptions::default()).await?),
        AttackMode::Sqlite => None,
    };
    let isolate = if args.without_watchdog { "none" } else { "auto" };
    let (faults, terms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (enough, mut lanes) = (CancellationToken::new(), JoinSet::new());
    let as_root = rustix::process::geteuid().is_root();
    let programs = AttackPrograms::find(as_root && args.leases > 1)?;
    for number in 0..args.leases {
        let unprivileged = as_root && number % 2 == 1;
        let lane = AttackedLease::new(number, seed, &args.ttl, unprivileged, isolate, &programs, |folder| {
            let words = match &postgres {
                Some(postgres) => {
                    ["--mode", "postgres", "--postgres-url", &postgres.url()].map(str::to_owned)
                }
                None => {
                    let file = folder.path().join("leases.db").display().to_string();
                    ["--mode", "sqlite", "--sqlite-path", &file].map(str::to_owned)
                }
            };
            words.to_vec()
        })?;
        let (faults, terms) = (faults.clone(), terms.clone());
        let count = move |more_faults, more_terms| {
            faults.fetch_add(more_faults, Ordering::Relaxed);
            terms.fetch_add(more_terms, Ordering::Relaxed);
        };
        lanes.spawn(lane.run(args.without_watchdog, count, enough.clone()));
    }
    let start = Instant::now();
    let limit = Duration::from_secs(args.minutes * 60);
    let progress = async {
        while start.elapsed() < limit {
            tokio::time::sleep(Duration::from_secs(10).min(limit - start.elapsed())).await;
            let (faults, terms) = (faults.load(Ordering::Relaxed), terms.load(Ordering::Relaxed));
            eprintln!("attack: {faults} faults, {terms} terms after {:.0?} of {limit:.0?}", start.elapsed());
        }
        enough.cancel();
        anyhow::Ok(())
    };
    let collect = async {
        let mut reports = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            reports.push(lane??);
        }
        anyhow::Ok(reports)
    };
    // A lane that fails ends the run at once.
    let ((), reports) = tokio::try_join!(progress, collect)?;
    let report = Report::new(&args, seed, start.elapsed(), reports);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(crate::exit_code(report.holds))
}

#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    repeat: String,
    mode: AttackMode,
    seed: u64,
    without_watchdog: bool,
    took_secs: f64,
    campaign: CampaignCounts,
    leases: Vec<String>,
    faults: usize,
    faults_by_kind: BTreeMap<String, usize>,
    terms: usize,
    overlaps: Vec<Overlap>,
    /// From the last stamp of a term to the first one of the next.
    shortest_gap_ms: Option<f64>,
    /// Leases with too few terms for their faults.
    quiet: Vec<String>,
    /// Guards that ended with the exit code 125 since they had no proof of their command's death.
    unproven: usize,
    /// Guards that were hit before their keeper was ready, and so ended with the exit code 125 before anything ran.
    hit_at_start: usize,
    /// The last lines of guards that ended with 125 for anything else.
    guard_failures: Vec<String>,
}

impl Report {
    fn new(args: &Args, seed: u64, took: Duration, lanes: Vec<LaneReport>) -> Self {
        let (mut faults_by_kind, mut overlaps, mut guard_failures) =
            (BTreeMap::new(), Vec::new(), Vec::new());
        let (mut leases, mut quiet) = (Vec::new(), Vec::new());
        let (mut terms, mut unproven, mut hit_at_start, mut shortest) = (0, 0, 0, None::<Duration>);
        for lane in lanes {
            let rights = if lane.unprivileged { "nobody" } else { "own rights" };
            leases.push(format!("{}: ttl {:?}, {rights}, {} terms", lane.lease, lane.ttl, lane.terms));
            if !lane.has_enough_terms() {
                quiet.push(lane.lease.clone());
            }
            lane.faults
                .into_iter()
                .for_each(|(fault, count)| *faults_by_kind.entry(fault).or_default() += count);
            terms += lane.terms;
            overlaps.extend(lane.overlaps);
            let (without_proof, failures): (Vec<_>, Vec<_>) =
                lane.failures.into_iter().partition(|lines| lines.contains(UNPROVEN));
            unproven += without_proof.len();
            let (at_start, failures): (Vec<_>, Vec<_>) =
                failures.into_iter().partition(|lines| AT_ITS_START.iter().any(|said| lines.contains(said)));
            hit_at_start += at_start.len();
            guard_failures.extend(failures);
            shortest = [shortest, lane.shortest].into_iter().flatten().min();
        }
        leases.sort();
        let faults: usize = faults_by_kind.values().sum();
        let without = if args.without_watchdog { " --without-watchdog" } else { "" };
        let sound = overlaps.is_empty() && quiet.is_empty() && guard_failures.is_empty();
        Self {
            holds: if args.without_watchdog { !overlaps.is_empty() } else { sound },
            repeat: format!(
                "leasehold-lab attack --mode {:?} --minutes {} --seed {seed} --ttl {}ms..{}ms --leases {}{without}",
                args.mode,
                args.minutes,
                args.ttl.start().as_millis(),
                args.ttl.end().as_millis(),
                args.leases
            )
            .to_lowercase(),
            mode: args.mode,
            seed,
            without_watchdog: args.without_watchdog,
            took_secs: took.as_secs_f64(),
            campaign: CampaignCounts { acquisitions: terms, faults },
            leases,
            faults,
            faults_by_kind,
            terms,
            overlaps,
            shortest_gap_ms: shortest.map(|gap| gap.as_secs_f64() * 1000.0),
            quiet,
            unproven,
            hit_at_start,
            guard_failures,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Attack on `leasehold run`, {:?}, {:.0} s", self.mode, self.took_secs)?;
        for lease in &self.leases {
            writeln!(f, "  {lease}")?;
        }
        for (fault, count) in &self.faults_by_kind {
            writeln!(f, "  {count:>5} {fault}")?;
        }
        let word = |holds| if holds { "ok  " } else { "FAIL" };
        let overlaps = self.overlaps.len();
        if self.without_watchdog {
            writeln!(f, "{}  without isolation and watchdog overlaps show: {overlaps}", word(overlaps > 0))?;
        } else {
            writeln!(f, "{}  no two terms' commands run at once: {overlaps} overlaps", word(overlaps == 0))?;
            writeln!(
                f,
                "{}  on each lease a term for each four faults: {} terms, {} faults; too few on {:?}",
                word(self.quiet.is_empty()),
                self.terms,
                self.faults,
                self.quiet
            )?;
            let failures = self.guard_failures.len();
            writeln!(
                f,
                "{}  no guard fails with 125: {failures}; besides {} without a proof of death, {} hit at their own start",
                word(failures == 0),
                self.unproven,
                self.hit_at_start
            )?;
        }
        for lines in self.guard_failures.iter().take(SHOWN) {
            writeln!(f, "      {lines}")?;
        }
        for overlap in self.overlaps.iter().take(SHOWN) {
            writeln!(f, "      {overlap}")?;
        }
        if let Some(gap) = self.shortest_gap_ms {
            writeln!(f, "      shortest time between two terms: {gap:.1} ms")?;
        }
        writeln!(f, "again: {}", self.repeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lanes: &[(usize, usize, &str)]) -> Report {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: Args,
        }
        let args = <Cli as clap::Parser>::parse_from(["attack", "--mode", "sqlite"]).args;
        let lane = |&(terms, faults, failure): &(usize, usize, &str)| LaneReport {
            lease: "a".to_owned(),
            ttl: Duration::from_secs(1),
            unprivileged: false,
            faults: BTreeMap::from([("kill of 1".to_owned(), faults)]),
            terms,
            overlaps: vec![],
            shortest: None,
            failures: Some(failure.to_owned()).filter(|lines| !lines.is_empty()).into_iter().collect(),
        };
        Report::new(&args, 1, Duration::from_secs(60), lanes.iter().map(lane).collect())
    }

    #[test]
    fn each_lease_must_have_its_terms() {
        assert!(report(&[(10, 40, ""), (10, 40, "")]).holds);
        assert!(!report(&[(30, 40, ""), (9, 40, "")]).holds, "not on average");
        assert!(!report(&[(30, 40, ""), (0, 0, "")]).holds);
    }

    #[test]
    fn a_guard_that_fails_fails_the_run_unless_it_lacks_the_proof_of_a_death() {
        let unproven = format!("the command's processes {UNPROVEN}: the lease is not released");
        assert!(report(&[(10, 40, &unproven)]).holds);
        assert!(!report(&[(10, 40, "the keeper can't be started: no rights")]).holds);
    }
}
