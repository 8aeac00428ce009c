//! The watch: a hint for each change, whoever makes it, and nothing left behind. Alone in its process: it counts
//! threads and descriptors.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::time::Duration;

use common::*;
use futures::StreamExt;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName};
use tokio::time::timeout;

const GENEROUS: Duration = Duration::from_secs(30);
const ROUNDS: usize = 20;

#[tokio::test]
async fn every_change_wakes_a_watcher_and_a_dropped_watch_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.open().await;
    let threads_before = threads();
    let mut hints = store.watch("").await.unwrap();

    let free = init(&store).await;
    timeout(GENEROUS, hints.next()).await.expect("a hint").expect("the watch lives");
    let other = place.open().await;
    let held = acquire(&other, &free, "a").await;
    timeout(GENEROUS, hints.next()).await.expect("a hint").expect("the watch lives");
    release(&other, &held).await;
    timeout(GENEROUS, hints.next()).await.expect("a hint").expect("the watch lives");
    drop((hints, other));

    // Two watches: the change that only one is asked about wakes only that one.
    let (mut all, mut ours) = (store.watch("").await.unwrap(), store.watch("outbox").await.unwrap());
    let sweeper = LeaseName::new("ttl-sweeper").unwrap();
    let absent = store.observe(&sweeper).await.unwrap();
    let record = writes::init(&absent, TTL, 0, None, &Fresh::random());
    store.put_if(&sweeper, &absent, &record, Change::Init).await.unwrap();
    timeout(GENEROUS, all.next()).await.expect("a hint").expect("the watch lives");
    assert!(timeout(Duration::from_millis(100), ours.next()).await.is_err(), "another lease's change");
    drop((all, ours));

    // SQLite's threads end on their own once they are told to.
    let mut after_one = 0;
    for round in 0..ROUNDS {
        let mut another = store.watch("").await.unwrap();
        for _ in 0..round % 10 {
            assert!(futures::poll!(another.next()).is_pending(), "nothing has changed");
        }
        drop(another);
        let ended = async {
            while threads() > threads_before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(GENEROUS, ended).await.expect("the watch's thread ends");
        if round == 0 {
            after_one = descriptors(&place);
        }
    }
    // While another connection has locks, SQLite keeps a closed one's descriptor of the database, and uses it for the
    // next: closing it would drop those locks. So there may be a few more, but not one for each watch.
    let after_all = descriptors(&place);
    assert!(after_all < after_one + ROUNDS / 2, "{after_all}; after one watch there were {after_one}");
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// Descriptors of files in the test's folder.
fn descriptors(place: &Place) -> usize {
    let open =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|target| target.starts_with(place.folder())).count()
}
