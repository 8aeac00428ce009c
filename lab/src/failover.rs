//! `leasehold-lab failover`: how long a lease stays without a holder after a SIGKILL.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lease_core::internal::deadline::lengthened;
use lease_core::{Change, LeaseName};
use lease_judge::Facts;
use lease_judge::history::{HistoryEntry, What};
use lease_stores::{Mode, Place};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::arena::Arena;
use crate::fleet::{ActorPart, Fleet, FleetActor};
use crate::judged::Judged;
use crate::stats::Spread;

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
    /// The number of holders that are killed in all.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// The number of leases, all at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=32))]
    leases: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The bar allows this for scheduling and the store.
const SLACK: Duration = Duration::from_millis(50);

/// One failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    #[serde(flatten)]
    judged: Judged,
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
    let (mut measured, mut histories) = (Vec::new(), BTreeMap::new());
    while let Some(lane) = lanes.join_next().await {
        let (lease, events) = lane??;
        let history = arena.history(&lease, events).await?;
        measured.extend(failovers(&Facts::of(&history)));
        histories.insert(lease, history);
    }
    let judged = Judged::of(&histories, None);

    // T-4: with a live watch a candidate polls at the renew interval, by default a third of the ttl.
    let bar = lengthened(args.ttl) + args.ttl / 3 + SLACK;
    let of = |time: fn(&Failover) -> Duration| Spread::of(measured.iter().map(time).collect());
    let observed = of(|failover| failover.observed);
    let millis = |span: Duration| span.as_secs_f64() * 1000.0;
    let report = Report {
        holds: observed.count as u64 == args.times && observed.max_ms <= millis(bar) && judged.holds(),
        mode: args.mode.as_str(),
        ttl_ms: millis(args.ttl),
        bar_ms: millis(bar),
        after_the_last_beat_was_observed: observed,
        after_the_last_beat_was_sent: of(|failover| failover.sent),
        judged,
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
        let in_time = report.after_the_last_beat_was_observed.max_ms <= report.bar_ms;
        let word = if in_time { "ok  " } else { "FAIL" };
        println!("{word}  never later than ttl·(1+1/500) + one poll + 50 ms = {:.0} ms", report.bar_ms);
        print!("{}", report.judged);
    }
    Ok(crate::exit_code(report.holds))
}

/// Failovers of one lease, one after the other. Returns the events of all of its actors.
async fn lane(
    fleet: Arc<Fleet>,
    place: Place,
    lease: LeaseName,
    ttl: Duration,
    times: u64,
) -> anyhow::Result<(LeaseName, Vec<HistoryEntry>)> {
    let limit = ttl * 4 + Duration::from_secs(30);
    let part = |index: u64| ActorPart {
        place: place.clone(),
        lease: lease.clone(),
        workload: format!("{lease}/{index}"),
        ttl,
        effects: ActorPart::effects_on(&lease, None),
    };
    let mut events = Vec::new();
    let mut holder = fleet.spawn(&part(0))?;
    let mut epoch = begun(&mut holder, &mut events, limit).await?;
    for time in 1..=times {
        let mut standby = fleet.spawn(&part(time))?;
        let follows = |event: &HistoryEntry| {
            let record = event.what.view()?.record.as_ref()?;
            (record.epoch == epoch).then_some(())
        };
        standby.await_event("the standby to follow the holder", limit, &mut events, follows).await?;
        // Kill at another point of the holder's beat each time.
        let phase = ttl.mul_f64(0.2 + 0.5 * (time as f64 * 0.618).fract());
        tokio::time::sleep(phase).await;
        holder.kill(&mut events).await?;
        epoch = begun(&mut standby, &mut events, limit).await?;
        holder = standby;
    }
    holder.kill(&mut events).await?;
    Ok((lease, events))
}

async fn begun(actor: &mut FleetActor, seen: &mut Vec<HistoryEntry>, limit: Duration) -> anyhow::Result<u64> {
    let begins = |event: &HistoryEntry| match event.what {
        What::Begun { term, .. } => Some(term.epoch),
        _ => None,
    };
    actor.await_event("a term", limit, seen, begins).await
}

/// From each term to the one before: the last beat of that one, as the successor saw it and as its holder sent it.
fn failovers(facts: &Facts<'_>) -> Vec<Failover> {
    let measure = |pair: &[lease_judge::Span]| {
        let [old, next] = pair else { return None };
        let (last, observed) = facts.last_beat_received(&next.actor, old.term.grant)?;
        // A beat that was applied but not yet acknowledged to the killed holder doesn't count: then the one before does.
        let beats = facts.writes_of(&old.actor).filter(|write| {
            matches!(write.put.change, Change::Acquire | Change::Renew)
                && write.put.record.grant == Some(old.term.grant)
                && write.put.record.beat <= last
                && write.is_written()
        });
        let sent = beats.last()?.sent_at;
        Some(Failover { observed: next.begun_at.since(observed), sent: next.begun_at.since(sent) })
    };
    facts.spans.windows(2).filter_map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::internal::deadline::shortened;
    use lease_core::internal::writes::{self, Candidate, Fresh};
    use lease_core::{Instant, Lineage, Observation, Record, Term};
    use lease_judge::history::{Answer, History, Put, View};

    const TTL: Duration = Duration::from_secs(2);

    fn observation(record: Option<&Record>) -> Observation {
        let lineage = Lineage(String::new());
        Observation { record: record.cloned(), lineage, floor: 0, version: String::new() }
    }

    fn shows(record: &Record) -> Observation {
        observation(Some(record))
    }

    #[test]
    fn a_failover_counts_from_the_last_beat_that_the_successor_saw() {
        let absent = observation(None);
        let free = writes::init(&absent, TTL, 0, None, &Fresh::random());
        let who = |holder: &str| Candidate {
            holder: holder.to_owned(),
            region: String::new(),
            ttl: TTL,
            max_ttl: TTL,
            preemptible: false,
            work: None,
        };
        let acquire = |from: &Record, holder: &str| {
            let fresh = Fresh::random();
            writes::acquire(&shows(from), from, &who(holder), fresh.grant, &fresh)
        };
        let renew = |from: &Record| writes::renew(&shows(from), from, &Fresh::random());
        let first = acquire(&free, "a");
        let (second, third, taken) = (renew(&first), renew(&renew(&first)), acquire(&first, "b"));

        let mut events = Vec::new();
        let mut event =
            |at, actor: &str, what| events.push(HistoryEntry { at: Instant(at), actor: actor.into(), what });
        let puts =
            [(100, Change::Acquire, &first), (200, Change::Renew, &second), (300, Change::Renew, &third)];
        for (call, (at, change, record)) in puts.into_iter().enumerate() {
            let (call, put) =
                (call as u64, Put { change, expected: (&absent).into(), record: record.clone() });
            event(at, "a", What::Sent { call, put: Some(Box::new(put)) });
            event(at + 1, "a", What::Answered { call, answer: Answer::Written(View::from(&shows(record))) });
        }
        for (at, record) in [(150, &first), (250, &second), (260, &second), (999, &taken)] {
            event(at, "b", What::Answered { call: 9, answer: Answer::Seen(View::from(&shows(record))) });
        }
        let begun = |term: Option<Term>, at: u64| What::Begun {
            term: term.unwrap(),
            deadline: Instant(at).plus(shortened(TTL)),
        };
        event(101, "a", begun(first.term(), 101));
        event(1000, "b", begun(taken.term(), 1000));
        let history = History { events, ..History::default() };
        let nanos = Duration::from_nanos;
        assert_eq!(failovers(&Facts::of(&history)), [Failover { observed: nanos(750), sent: nanos(800) }]);
    }
}
