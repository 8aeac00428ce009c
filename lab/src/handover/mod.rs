//! `leasehold-lab handover`: how long a clean hand-over takes, beside the commits that it needs.

mod bare;
mod sidecar;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lease_core::{Change, Grant, Instant, LeaseName, Term};
use lease_judge::FencedResource;
use lease_judge::history::{History, HistoryEntry, Outcome, What};
use lease_stores::Mode;
use lease_testbed::Signal;
use serde::Serialize;

use crate::arena::Arena;
use crate::fleet::{ActorPart, Fleet, FleetActor, now};
use crate::judged::Judged;
use crate::stats::Spread;

/// Hand a lease over by SIGTERM, again and again, from the signal to the successor's first fenced commit; in turns with
/// the same commits in sequence by a bare client. The bar: median at most twice, p99 at most three times as long.
///
/// Mode sidecar hands a fencing scope over between sidecars, by SIGTERM and by revocation in turns, to the first
/// reservation; the bare client asks the ledger for the same.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store: postgres, etcd or k8s; or sidecar.
    #[arg(long, value_parser = subject)]
    mode: Subject,
    /// The number of hand-overs.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The thing that is handed over.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Lease(Mode),
    Sidecar,
}

fn subject(text: &str) -> Result<Subject, String> {
    match text {
        "postgres" => Ok(Subject::Lease(Mode::Postgres)),
        "etcd" => Ok(Subject::Lease(Mode::Etcd)),
        "k8s" => Ok(Subject::Lease(Mode::K8s)),
        "sidecar" => Ok(Subject::Sidecar),
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
    /// Absent for sidecars, which leave no history.
    #[serde(flatten)]
    judged: Option<Judged>,
}

type Parts = BTreeMap<&'static str, Vec<Duration>>;

impl Report {
    fn new(hand_overs: Vec<Duration>, bares: Vec<Duration>, parts: Parts, judged: Option<Judged>) -> Self {
        let (hand_over, bare) = (Spread::of(hand_overs), Spread::of(bares));
        let (median_ratio, p99_ratio) =
            (hand_over.median_ms / bare.median_ms, hand_over.p99_ms / bare.p99_ms);
        Self {
            holds: median_ratio <= MEDIAN_BAR
                && p99_ratio <= P99_BAR
                && judged.as_ref().is_none_or(Judged::holds),
            hand_over,
            bare,
            median_ratio,
            p99_ratio,
            parts: parts.into_iter().map(|(part, times)| (part, Spread::of(times))).collect(),
            judged,
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (report, what) = match args.mode {
        Subject::Lease(mode) => {
            let what = format!(
                "on {}: SIGTERM of an idle leader to the successor's first fenced commit",
                mode.as_str()
            );
            (of_a_lease(mode, args.times).await?, what)
        }
        Subject::Sidecar => {
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
        if let Some(judged) = &report.judged {
            print!("{judged}");
        }
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
        let effects = ActorPart::effects_on(&lease, None);
        fleet.spawn(&ActorPart { workload: format!("worker-{index}"), place, lease, ttl: TTL, effects })
    };
    let mut events = Vec::new();
    let mut leader = spawn(0)?;
    let mut epoch = effect_of(&mut leader, &mut events).await?.0;
    let (mut hand_overs, mut bares, mut parts) = (Vec::new(), Vec::new(), Parts::new());
    for time in 1..=times {
        let mut successor = spawn(time)?;
        ready(&mut successor, epoch, &mut events).await?;
        let steps = bare.run().await?;
        bares.push(steps.iter().map(|(_, took)| took).sum());
        steps.into_iter().for_each(|(part, took)| parts.entry(part).or_default().push(took));

        let mut during = History::default();
        let start = now();
        leader.process.signal(Signal::TERM)?;
        let (next, end) = effect_of(&mut successor, &mut during.events).await?;
        hand_overs.push(end.since(start));
        let status = leader.process.wait(LIMIT).await?;
        anyhow::ensure!(status.success(), "the old leader ended with {status}");
        during.events.extend(leader.look()?);
        during.sort();
        for (part, took) in split(start, &during).context("the history lacks a part of the hand-over")? {
            parts.entry(part).or_default().push(took);
        }
        events.extend(during.events);
        (leader, epoch) = (successor, next);
    }
    leader.kill(&mut events).await?;
    let histories = BTreeMap::from([(lease.clone(), arena.history(&lease, events).await?)]);
    Ok(Report::new(hand_overs, bares, parts, Some(Judged::of(&histories, None))))
}

/// Pre-started and watching: its hints are live, and it has seen the present term.
async fn ready(successor: &mut FleetActor, present: u64, seen: &mut Vec<HistoryEntry>) -> anyhow::Result<()> {
    let (mut watching, mut follows) = (false, false);
    let both = |event: &HistoryEntry| {
        watching |= matches!(event.what, What::Watching { live: true });
        let record = event.what.view().and_then(|view| view.record.as_ref());
        follows |= record.is_some_and(|record| record.epoch == present);
        (watching && follows).then_some(())
    };
    successor.await_event("the successor to watch", LIMIT, seen, both).await?;
    // Its work on becoming live (a look, the first effect's statements) is over soon.
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

/// The term's first fenced commit: its epoch, and the moment of its acknowledgement.
async fn effect_of(actor: &mut FleetActor, seen: &mut Vec<HistoryEntry>) -> anyhow::Result<(u64, Instant)> {
    let written = |event: &HistoryEntry| match &event.what {
        What::Effect { term, outcome: Outcome::Written, .. } => Some((term.epoch, event.at)),
        _ => None,
    };
    actor.await_event("a fenced commit", LIMIT, seen, written).await
}

/// The parts of the time from `start` to the successor's effect.
fn split(start: Instant, during: &History) -> Option<Vec<(&'static str, Duration)>> {
    let put = |wanted: Change| {
        let writes = during.writes();
        let write = writes.iter().rfind(|write| write.put.change == wanted && write.is_written())?;
        Some((write.actor.to_owned(), write.sent_at, write.answered?.0))
    };
    let (_, release_sent, release_answered) = put(Change::Release)?;
    let (successor, acquire_sent, acquire_answered) = put(Change::Acquire)?;
    let mut events = during.events.iter().filter(|event| event.actor == successor && event.at >= start);
    // Shown by the watch, or by a look.
    let is_free = |event: &&HistoryEntry| {
        let record = event.what.view().and_then(|view| view.record.as_ref());
        record.is_some_and(|record| record.grant.is_none())
    };
    let saw = events.find(is_free)?.at;
    let (before, after) = events.rev().find_map(|event| match event.what {
        What::Effect { sent, .. } => Some((sent, event.at)),
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
    Some(spans.map(|(part, from, to)| (part, to.since(from))).into())
}

/// The commits that a hand-over needs, by a client that does nothing else, on one connection.
struct Bare {
    register: bare::Register,
    effects: Arc<dyn FencedResource>,
    epoch: u64,
}

impl Bare {
    async fn prepare(arena: &Arena) -> anyhow::Result<Self> {
        let register = bare::Register::prepare(&arena.place).await?;
        let mut bare = Self { register, effects: arena.place.resource("bare").await?, epoch: 0 };
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
        self.effects
            .effect(term, &format!("bare/{}", self.epoch))
            .await
            .context("the bare client's effect")?;
        Ok([
            ("bare 1 release", released.since(start)),
            ("bare 2 acquisition", acquired.since(released)),
            ("bare 3 fenced effect", now().since(acquired)),
        ])
    }
}
