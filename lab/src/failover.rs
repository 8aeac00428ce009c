//! `leasehold-lab failover`: how long a lease stays without a holder after a SIGKILL.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lease_core::LeaseName;
use lease_core::deadline::lengthened;
use lease_stores::{Mode, Place};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::arena::Arena;
use crate::fleet::{Actor, Fleet, Part};
use crate::stats::Spread;
use crate::trace::{Act, Entry, Nanos, Outcome};

/// SIGKILL holders and measure when their successors lead. The bar: never later than ttl·(1+1/500) + one poll + 50 ms
/// after the successor observed the holder's last acknowledged beat.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[arg(long)]
    mode: Mode,
    /// The leases' ttl.
    #[arg(long, default_value = "2s", value_parser = crate::args::duration)]
    ttl: Duration,
    /// How many holders are killed in all.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// How many leases there are, all at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=32))]
    leases: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What the bar allows for scheduling and the store.
const SLACK: Duration = Duration::from_millis(50);

/// One failover.
#[derive(Clone, Copy, Debug)]
struct Failover {
    /// From when the successor first observed the holder's last beat.
    observed: Duration,
    /// From when the holder sent it.
    sent: Duration,
}

#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    mode: &'static str,
    ttl_ms: f64,
    bar_ms: f64,
    after_the_last_beat_was_observed: Spread,
    after_the_last_beat_was_sent: Spread,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let fleet = Arc::new(Fleet::new()?);
    let leases: Vec<_> = (0..args.leases.min(args.times))
        .map(|index| LeaseName::new(format!("lease-{index}")))
        .collect::<Result<_, _>>()?;
    let arena = Arena::start(args.mode, &leases, args.ttl).await?;
    let mut lanes = JoinSet::new();
    for (index, lease) in leases.iter().enumerate() {
        let share =
            args.times / leases.len() as u64 + u64::from((index as u64) < args.times % leases.len() as u64);
        lanes.spawn(lane(fleet.clone(), arena.place.clone(), lease.clone(), args.ttl, share));
    }
    let mut measured = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        measured.extend(lane??);
    }

    // T-4: with a live watch a candidate polls at the renew interval, by default a third of the ttl.
    let bar = lengthened(args.ttl) + args.ttl / 3 + SLACK;
    let of = |time: fn(&Failover) -> Duration| Spread::of(measured.iter().map(time).collect());
    let observed = of(|failover| failover.observed);
    let millis = |span: Duration| span.as_secs_f64() * 1000.0;
    let report = Report {
        holds: observed.count as u64 == args.times && observed.max_ms <= millis(bar),
        mode: args.mode.as_str(),
        ttl_ms: millis(args.ttl),
        bar_ms: millis(bar),
        after_the_last_beat_was_observed: observed,
        after_the_last_beat_was_sent: of(|failover| failover.sent),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "Failover on {} at ttl {:?}, {} leases at once: SIGKILL of the holder",
            report.mode,
            args.ttl,
            leases.len()
        );
        println!("  after its last beat was observed  {}", report.after_the_last_beat_was_observed);
        println!("  after its last beat was sent      {}", report.after_the_last_beat_was_sent);
        let word = if report.holds { "ok  " } else { "FAIL" };
        println!("{word}  never later than ttl·(1+1/500) + one poll + 50 ms = {:.0} ms", report.bar_ms);
    }
    Ok(crate::exit_code(report.holds))
}

/// Failovers of one lease, one after the other.
async fn lane(
    fleet: Arc<Fleet>,
    place: Place,
    lease: LeaseName,
    ttl: Duration,
    times: u64,
) -> anyhow::Result<Vec<Failover>> {
    let limit = ttl * 4 + Duration::from_secs(30);
    let part = |index: u64| Part {
        place: place.clone(),
        lease: lease.clone(),
        workload: format!("{lease}/{index}"),
        ttl,
        every: None,
    };
    let mut holder = fleet.spawn(&part(0))?;
    let mut held = Vec::new();
    let mut epoch = begun(&mut holder, &mut held, limit).await?;
    let mut measured = Vec::new();
    for time in 1..=times {
        let mut standby = fleet.spawn(&part(time))?;
        let mut seen = Vec::new();
        let follows =
            |entry: &Entry| matches!(entry, Entry::Saw { epoch: e, .. } if *e == epoch).then_some(());
        standby.await_entry("the standby to follow the holder", limit, &mut seen, follows).await?;
        // Kill at another point of the holder's beat each time.
        let phase = ttl.mul_f64(0.2 + 0.5 * (time as f64 * 0.618).fract());
        tokio::time::sleep(phase).await;
        holder.process.kill().await?;
        held.extend(holder.look()?);
        let next = begun(&mut standby, &mut seen, limit).await?;
        measured.push(measure(&held, &seen, epoch).context("the traces lack the last beat")?);
        (holder, held, epoch) = (standby, seen, next);
    }
    Ok(measured)
}

async fn begun(actor: &mut Actor, seen: &mut Vec<Entry>, limit: Duration) -> anyhow::Result<u64> {
    let begins = |entry: &Entry| match entry {
        Entry::Begin { term, .. } => Some(term.epoch),
        _ => None,
    };
    actor.await_entry("a term", limit, seen, begins).await
}

/// The last beat that the successor saw before it led, and when the holder had sent it.
fn measure(holder: &[Entry], successor: &[Entry], old: u64) -> Option<Failover> {
    let begin = successor.iter().rev().find_map(|entry| match entry {
        Entry::Begin { at, .. } => Some(*at),
        _ => None,
    })?;
    let (observed, last): (Nanos, u64) = successor.iter().rev().find_map(|entry| match entry {
        Entry::Saw { at, epoch, beat, .. } if *epoch == old && *at < begin => Some((*at, *beat)),
        _ => None,
    })?;
    // A beat that was applied but not yet acknowledged to the killed holder has no line: then the one before counts.
    let sent = holder.iter().rev().find_map(|entry| match entry {
        Entry::Put {
            sent, act: Act::Acquire | Act::Renew, epoch, beat, outcome: Outcome::Written, ..
        } if *epoch == old && *beat <= last => Some(*sent),
        _ => None,
    })?;
    let span = |from: Nanos| Duration::from_nanos(begin - from);
    Some(Failover { observed: span(observed), sent: span(sent) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::{Grant, Term};

    #[test]
    fn a_failover_counts_from_the_last_beat_that_the_successor_saw() {
        let put = |sent, act, beat| {
            let outcome = Outcome::Written;
            Entry::Put { sent, answered: sent + 1, act, epoch: 1, beat, outcome }
        };
        let saw = |at, epoch, beat| Entry::Saw { sent: at - 1, at, epoch, grant: Some(Grant(1)), beat };
        let holder = [put(100, Act::Acquire, 0), put(200, Act::Renew, 1), put(300, Act::Renew, 2)];
        let begin = Entry::Begin { at: 1000, term: Term { epoch: 2, grant: Grant(2) } };
        let successor = [saw(150, 1, 0), saw(250, 1, 1), saw(999, 2, 0), begin];
        let failover = measure(&holder, &successor, 1).unwrap();
        assert_eq!((failover.observed.as_nanos(), failover.sent.as_nanos()), (750, 800));
    }
}
