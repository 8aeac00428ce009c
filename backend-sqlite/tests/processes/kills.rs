//! Writers are killed at any moment, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease_core::internal::writes::{self, Fresh};
use lease_core::{Certainty, Change, HistoryEvent, LeaseBackend, Observation, PutOutcome, Record};
use lease_sqlite::{Sqlite, SqliteConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::*;
use crate::peer::{Peer, say};

const WRITERS: usize = 3;
const KILLS: usize = 60;

/// One acknowledged write, as its writer said it: the epoch, the beat within it, the grant.
type Acknowledged = (u64, u64, String);

pub fn writers_in_a_loop() {
    let seed =
        std::env::var("LEASEHOLD_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("seed: LEASEHOLD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new();
    let start = || Peer::start("write", &place.file());
    let mut writers: Vec<_> = (0..WRITERS).map(|_| start()).collect();
    let mut acknowledged: Vec<Acknowledged> = Vec::new();
    for _ in 0..KILLS {
        // It must have begun; how far it comes from there is chance.
        let writer = random.random_range(0..WRITERS);
        acknowledged.push(parse(&writers[writer].hear()));
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        let killed = std::mem::replace(&mut writers[writer], start());
        acknowledged.extend(killed.kill().iter().map(|line| parse(line)));
    }
    for writer in writers {
        acknowledged.extend(writer.kill().iter().map(|line| parse(line)));
    }
    block_on(judge(&place, &acknowledged));
}

async fn judge(place: &Place, acknowledged: &[Acknowledged]) {
    let store = place.open().await;
    let now = observe(&store).await;
    let record = now.record.as_ref().expect("a register");
    let last = acknowledged.iter().map(|(epoch, beat, _)| (*epoch, *beat)).max().expect("writes");
    assert!((record.epoch, record.beat) >= last, "{last:?} was acknowledged, and {record:?} is what is left");
    assert!(now.floor >= record.epoch);

    let mut grants = BTreeMap::new();
    let mut writes = BTreeSet::new();
    for (epoch, beat, grant) in acknowledged {
        let first = grants.entry(*epoch).or_insert(grant);
        assert_eq!(first, &grant, "epoch {epoch} has two grants");
        assert!(writes.insert((*epoch, *beat)), "beat {beat} of epoch {epoch} was acknowledged twice");
    }
    let history = store.history(&name(), u32::MAX).await.unwrap();
    let granted = |event| matches!(event, HistoryEvent::Acquired | HistoryEvent::TakenOver);
    let epochs: Vec<_> = history.iter().filter(|row| granted(row.event_type)).map(|row| row.epoch).collect();
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    let epochs: BTreeSet<_> = epochs.into_iter().collect();
    assert!(grants.keys().all(|epoch| epochs.contains(epoch)), "an acknowledged acquisition left no row");
    assert_eq!(record.transitions, epochs.len() as u64, "each acquisition left one row");
    println!("{} acknowledged writes, {} terms", acknowledged.len(), grants.len());
}

fn parse(line: &str) -> Acknowledged {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{line:?}"));
    (word().parse().unwrap(), word().parse().unwrap(), word().to_owned())
}

/// Takes the lease from whoever has it, renews it a few times, gives it up; and so on. Says each acknowledged write.
pub async fn write_for_ever(path: &str) {
    let store = Sqlite::connect(SqliteConfig::new(path).unwrap()).await.unwrap();
    let holder = format!("pid-{}", std::process::id());
    loop {
        let seen = observe(&store).await;
        let Some(before) = seen.record.clone() else {
            let fresh = Fresh::random();
            let free = writes::init(&seen, TTL, 0, None, &fresh);
            store.put_if(&name(), &seen, &free, Change::Init).await.unwrap();
            continue;
        };
        let Some(mut held) = write(&store, &seen, acquired(&seen, &holder), Change::Acquire).await else {
            continue;
        };
        for _ in 0..before.epoch % 4 {
            match write(&store, &held, renewed(&held), Change::Renew).await {
                Some(now) => held = now,
                None => break,
            }
        }
        let fresh = Fresh::random();
        let free = writes::release(&held, held.record.as_ref().unwrap(), &fresh);
        write(&store, &held, free, Change::Release).await;
    }
}

async fn write(
    store: &Sqlite,
    expected: &Observation,
    record: Record,
    change: Change,
) -> Option<Observation> {
    match store.put_if(&name(), expected, &record, change).await {
        Ok(PutOutcome::Written(now)) => {
            let grant = record.grant.or(expected.grant()).expect("a term's write");
            say(&format!("{} {} {grant}", record.epoch, record.beat));
            Some(now)
        }
        Ok(PutOutcome::Conflict(_)) => None,
        // Writers without any pause between them starve one another; that is certainly no write.
        Err(error) if error.certainty == Certainty::NotApplied => None,
        Err(error) => panic!("{error}"),
    }
}
