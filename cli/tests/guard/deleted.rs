//! A lease file that is deleted while its leader works.

use std::fs;
use std::time::Duration;

use crate::common::*;

/// Each line is an epoch and a moment of work.
const WORK: &str = "while true; do echo $LEASEHOLD_EPOCH $(date +%s%N) >>$NAME; sleep 0.02; done";

#[tokio::test]
async fn a_lease_file_that_is_deleted_under_its_leader_gives_no_second_one() {
    let place = Place::new("auto");
    let ttl = Duration::from_secs(2);
    let leader = place.guard(ttl, &["--log", "info"], &format!("NAME=first; {WORK}"));
    place.await_lines("first", 1).await;
    for file in ["leases.db", "leases.db-wal", "leases.db-shm"] {
        fs::remove_file(place.path(file)).unwrap();
    }
    let other = place.guard(ttl, &["--log", "info"], &format!("NAME=second; {WORK}"));
    other.wait_for_line("created the lease, closed", LIMIT).await.unwrap();
    let begun = place.await_lines("second", 25).await;
    let of = |line: &str| -> Vec<u64> { line.split(' ').map(|word| word.parse().unwrap()).collect() };
    let (last, first) = (of(place.lines("first").last().unwrap()), of(&begun[0]));
    assert!(last[1] < first[1], "both worked at one time: {last:?}, {first:?}");
    assert!(last[0] < first[0], "the second one's epoch is no greater: {last:?}, {first:?}");
    drop((leader, other));
}
