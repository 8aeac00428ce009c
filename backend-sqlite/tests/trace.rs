//! A lease file that is made after another one was deleted: somebody may still hold leases in that.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use common::*;
use lease_core::internal::deadline::{Claim, Sighting, lengthened};
use lease_core::{BackendError, Instant, LeaseBackend, Observation};
use lease_sqlite::Sqlite;

fn trace(place: &Place) -> PathBuf {
    place.folder().join(".leases.sqlite.trace")
}

/// As `rm leases.sqlite*` does it.
fn remove(place: &Place) {
    for entry in fs::read_dir(place.folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("leases.sqlite") {
            // SQLite removes -wal and -shm itself, when its thread closes the last connection.
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn claim(seen: &Observation) -> Claim {
    Sighting::new(seen.clone(), Instant::ZERO).claim(TTL, TTL, false)
}

#[tokio::test]
async fn the_first_file_is_waited_for_by_nobody() {
    let place = Place::new();
    let free = init(&place.open().await).await;
    assert_eq!(claim(&free), Claim::At(Instant::ZERO));
    let epoch = acquire(&place.open().await, &free, "a").await.record.unwrap().epoch;
    assert_eq!(epoch, 1);
    assert_eq!(observe(&place.open().await).await.floor, epoch, "opening it again changes nothing");
}

#[tokio::test]
async fn a_file_made_after_a_deletion_is_waited_out_and_its_epochs_exceed_all_earlier_ones() {
    let place = Place::new();
    let mut epochs = Vec::new();
    for round in 0..3 {
        let store = place.open().await;
        let free = init(&store).await;
        let waits = claim(&free) == Claim::At(Instant::ZERO.plus(lengthened(TTL)));
        assert_eq!(waits, round > 0, "a holder in the deleted file may be at work for as long");
        assert_eq!(observe(&store).await, free, "to every process");
        let held = acquire(&store, &free, "a").await;
        epochs.push(held.record.as_ref().unwrap().epoch);
        let free = release(&store, &held).await;
        assert_eq!(claim(&free), Claim::At(Instant::ZERO), "from then on it is a register like any other");
        remove(&place);
    }
    assert!(epochs.is_sorted_by(|earlier, later| earlier < later), "{epochs:?}");
}

#[tokio::test]
async fn a_deleted_register_in_a_file_made_after_a_deletion_keeps_its_floor() {
    let place = Place::new();
    place.open().await;
    remove(&place);
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    let floor = held.record.unwrap().epoch;
    let absent = store.observe(&lease_core::LeaseName::new("another").unwrap()).await.unwrap();
    assert!(absent.record.is_none() && absent.floor > 1_000 && absent.floor < floor, "{absent:?}");
    assert_eq!(observe(&store).await.floor, floor);
}

#[tokio::test]
async fn a_file_without_a_trace_gets_one_again() {
    let place = Place::new();
    for removed in 0..2 {
        place.open().await;
        let told = fs::read_to_string(trace(&place)).unwrap();
        assert!(told.starts_with(&format!("{} ", removed + 1)), "{told}");
        fs::remove_file(trace(&place)).unwrap();
        place.open().await;
        assert_eq!(fs::read_to_string(trace(&place)).unwrap(), told, "as an older version's file");
        remove(&place);
    }
}

#[tokio::test]
async fn a_creation_that_failed_is_no_file_that_somebody_may_hold_a_lease_in() {
    let place = Place::new();
    fs::write(place.file(), "").unwrap();
    let mut backup = place.shell().await;
    // A reader holds up the commit for longer than a creation waits for it.
    sqlx::raw_sql("BEGIN; SELECT * FROM sqlite_master").execute(&mut backup).await.unwrap();
    let error = Sqlite::connect(place.config()).await.unwrap_err();
    assert!(!error.refused, "{error}");
    sqlx::raw_sql("COMMIT").execute(&mut backup).await.unwrap();
    assert_eq!(claim(&init(&place.open().await).await), Claim::At(Instant::ZERO));
    assert!(fs::read_to_string(trace(&place)).unwrap().starts_with("1 "));
}

#[tokio::test]
async fn a_trace_that_says_nothing_is_refused() {
    let place = Place::new();
    for text in ["", "many", "0", "-1", "99999999999"] {
        fs::write(trace(&place), text).unwrap();
        let error: BackendError = Sqlite::connect(place.config()).await.unwrap_err();
        assert!(error.refused && error.to_string().contains(".leases.sqlite.trace"), "{text:?}: {error}");
    }
}
