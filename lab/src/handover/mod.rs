//! `leasehold-lab handover`: how long a clean hand-over takes, beside the commits that it needs.

mod bare;
mod sidecar;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lease_core::{Grant, LeaseName, Term};
use lease_stores::Mode;
use lease_testbed::Signal;
use serde::Serialize;

use crate::arena::Arena;
use crate::effects::{Effect, Effects};
use crate::fleet::{Actor, Fleet, Part};
use crate::stats::Spread;
use crate::trace::{Act, Entry, Nanos, Outcome, now};

/// Hand a lease over by SIGTERM, again and again, from the signal to the successor's first fenced commit; in turns with
/// the same commits in sequence by a bare client. The bar: median at most twice, p99 at most three times as long.
///
/// Mode sidecar hands a fencing scope over between sidecars, by SIGTERM and by revocation in turns, to the first
/// reservation; the bare client asks the ledger for the same.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store: postgres, etcd or k8s; or sidecar.
    #[arg(long, value_parser = what)]
    mode: What,
    /// How many hand-overs.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Lease(Mode),
    Sidecar,
}

fn what(text: &str) -> Result<What, String> {
    match text {
        "postgres" => Ok(What::Lease(Mode::Postgres)),
        "etcd" => Ok(What::Lease(Mode::Etcd)),
        "k8s" => Ok(What::Lease(Mode::K8s)),
        "sidecar" => Ok(What::Sidecar),
        _ => Err("use postgres, etcd, k8s or sidecar".to_owned()),
    }
}

/// Long: nothing here may be an expiry.
const TTL: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(30);
const MEDIAN_BAR: f64 = 2.0;
const P99_BAR: f64 = 3.0;

#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    hand_over: Spread,
    bare: Spread,
    median_ratio: f64,
    p99_ratio: f64,
    /// The hand-over's parts, in their order, and the bare client's.
    parts: BTreeMap<&'static str, Spread>,
}

type Parts = BTreeMap<&'static str, Vec<Duration>>;

impl Report {
    fn new(hand_overs: Vec<Duration>, bares: Vec<Duration>, parts: Parts) -> Self {
        let (hand_over, bare) = (Spread::of(hand_overs), Spread::of(bares));
        let (median_ratio, p99_ratio) =
            (hand_over.median_ms / bare.median_ms, hand_over.p99_ms / bare.p99_ms);
        Self {
            holds: median_ratio <= MEDIAN_BAR && p99_ratio <= P99_BAR,
            hand_over,
            bare,
            median_ratio,
            p99_ratio,
            parts: parts.into_iter().map(|(part, times)| (part, Spread::of(times))).collect(),
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (report, what) = match args.mode {
        What::Lease(mode) => {
            let what = format!(
                "on {}: SIGTERM of an idle leader to the successor's first fenced commit",
                mode.as_str()
            );
            (of_a_lease(mode, args.times).await?, what)
        }
        What::Sidecar => {
            let what = "of a sidecar: SIGTERM or revocation to the successor's first reservation".to_owned();
            (sidecar::run(args.times).await?, what)
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("Clean hand-over {what}");
        println!("  hand-over         {}", report.hand_over);
        println!("  the bare commits  {}", report.bare);
        report.parts.iter().for_each(|(part, spread)| println!("    {spread}  {part}"));
        let verdict = |ratio: f64, bar: f64, what: &str| {
            let word = if ratio <= bar { "ok  " } else { "FAIL" };
            println!("{word}  {what}: {ratio:.2} times the bare commits', at most {bar} allowed");
        };
        verdict(report.median_ratio, MEDIAN_BAR, "median");
        verdict(report.p99_ratio, P99_BAR, "p99");
    }
    Ok(crate::exit_code(report.holds))
}

async fn of_a_lease(mode: Mode, times: u64) -> anyhow::Result<Report> {
    let fleet = Fleet::new()?;
    let lease = LeaseName::new("handed-over")?;
    let arena = Arena::start(mode, std::slice::from_ref(&lease), TTL).await?;
    let mut bare = Bare::prepare(&arena).await?;
    let spawn = |index: u64| {
        let (place, lease) = (arena.place.clone(), lease.clone());
        fleet.spawn(&Part { workload: format!("worker-{index}"), place, lease, ttl: TTL, every: None })
    };
    let mut leader = spawn(0)?;
    let mut epoch = effect_of(&mut leader, &mut Vec::new()).await?.0;
    let (mut hand_overs, mut bares, mut parts) = (Vec::new(), Vec::new(), Parts::new());
    for time in 1..=times {
        let mut successor = spawn(time)?;
        ready(&mut successor, epoch).await?;
        let steps = bare.run().await?;
        bares.push(steps.iter().map(|(_, took)| took).sum());
        steps.into_iter().for_each(|(part, took)| parts.entry(part).or_default().push(took));

        let (mut told, mut seen) = (Vec::new(), Vec::new());
        let start = now();
        leader.process.signal(Signal::TERM)?;
        let (next, end) = effect_of(&mut successor, &mut seen).await?;
        hand_overs.push(Duration::from_nanos(end - start));
        let status = leader.process.wait(LIMIT).await?;
        anyhow::ensure!(status.success(), "the old leader ended with {status}");
        told.extend(leader.look()?);
        for (part, took) in split(start, &told, &seen).context("a trace lacks a part of the hand-over")? {
            parts.entry(part).or_default().push(took);
        }
        (leader, epoch) = (successor, next);
    }
    Ok(Report::new(hand_overs, bares, parts))
}

/// Pre-started and watching: its hints are live, and it has seen the present term.
async fn ready(successor: &mut Actor, present: u64) -> anyhow::Result<()> {
    let (mut watching, mut follows) = (false, false);
    let both = |entry: &Entry| {
        watching |= matches!(entry, Entry::Watching { live: true, .. });
        follows |= matches!(entry, Entry::Saw { epoch, .. } if *epoch == present);
        (watching && follows).then_some(())
    };
    successor.await_entry("the successor to watch", LIMIT, &mut Vec::new(), both).await?;
    // What it does on becoming live (a look, the first effect's statements) is over soon.
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

/// The term's first fenced commit: its epoch, and when it was acknowledged.
async fn effect_of(actor: &mut Actor, seen: &mut Vec<Entry>) -> anyhow::Result<(u64, Nanos)> {
    let written = |entry: &Entry| match entry {
        Entry::Effect { after, term, outcome: Outcome::Written, .. } => Some((term.epoch, *after)),
        _ => None,
    };
    actor.await_entry("a fenced commit", LIMIT, seen, written).await
}

/// Where the time went.
fn split(start: Nanos, leader: &[Entry], successor: &[Entry]) -> Option<Vec<(&'static str, Duration)>> {
    let put = |entries: &[Entry], wanted: Act| {
        entries.iter().rev().find_map(|entry| match entry {
            Entry::Put { sent, answered, act, outcome: Outcome::Written, .. } if *act == wanted => {
                Some((*sent, *answered))
            }
            _ => None,
        })
    };
    let (release_sent, release_answered) = put(leader, Act::Release)?;
    let (acquire_sent, acquire_answered) = put(successor, Act::Acquire)?;
    // Shown by the watch, or by a look.
    let saw = successor.iter().rev().find_map(|entry| match entry {
        Entry::Saw { at, grant: None, .. } => Some(*at),
        _ => None,
    })?;
    let (before, after) = successor.iter().rev().find_map(|entry| match entry {
        Entry::Effect { before, after, .. } => Some((*before, *after)),
        _ => None,
    })?;
    let spans = [
        ("1 SIGTERM to release sent", start, release_sent),
        ("2 release acknowledged", release_sent, release_answered),
        // The news may overtake the acknowledgement.
        ("3 release sent to the successor's news of it", release_sent, saw),
        ("4 news to acquisition sent", saw, acquire_sent),
        ("5 acquisition acknowledged", acquire_sent, acquire_answered),
        ("6 acquisition to effect begun", acquire_answered, before),
        ("7 fenced effect", before, after),
    ];
    Some(spans.map(|(part, from, to)| (part, Duration::from_nanos(to.saturating_sub(from)))).into())
}

/// The commits that a hand-over needs, by a client that does nothing else, on one connection.
struct Bare {
    register: bare::Register,
    effects: Effects,
    epoch: u64,
}

impl Bare {
    async fn prepare(arena: &Arena) -> anyhow::Result<Self> {
        let register = bare::Register::prepare(&arena.place).await?;
        let mut bare = Self { register, effects: Effects::open(&arena.place, "bare").await?, epoch: 0 };
        // Once for the statements.
        bare.run().await?;
        Ok(bare)
    }

    async fn run(&mut self) -> anyhow::Result<[(&'static str, Duration); 3]> {
        self.epoch += 1;
        let term = Term { epoch: self.epoch, grant: Grant::random() };
        let start = now();
        self.register.update(self.epoch, None).await?;
        let released = now();
        self.register.update(self.epoch, Some(term)).await?;
        let acquired = now();
        let effect = Effect { term, incarnation: 0, number: self.epoch, before: start };
        let outcome = self.effects.write(&effect).await;
        anyhow::ensure!(outcome == Outcome::Written, "the bare client's effect: {outcome:?}");
        let span = |from: Nanos, to: Nanos| Duration::from_nanos(to - from);
        Ok([
            ("bare 1 release", span(start, released)),
            ("bare 2 acquisition", span(released, acquired)),
            ("bare 3 fenced effect", span(acquired, now())),
        ])
    }
}
