//! what is acknowledged is in the file that the path names, and nowhere else.

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::*;
use futures::StreamExt;
use lease_core::{
    BackendError, Certainty, Change, Elector, EventKind, LeaseBackend, Loss, RunError, WorkloadId,
};
use lease_sqlite::Sqlite;
use tokio::sync::mpsc;

/// The database and what SQLite keeps beside it.
fn files(place: &Place) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = place.file().into_os_string();
        name.push(suffix);
        name.into()
    })
}

fn move_away(place: &Place) {
    for file in files(place) {
        fs::rename(&file, file.with_extension(format!("{}.away", file.extension().unwrap().display())))
            .unwrap();
    }
}

fn move_back(place: &Place) {
    for file in files(place) {
        fs::rename(file.with_extension(format!("{}.away", file.extension().unwrap().display())), &file)
            .unwrap();
    }
}

#[track_caller]
fn assert_says_what_happened(place: &Place, error: &BackendError) {
    assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
    assert!(error.refused && error.gone, "{error}");
    let message = error.to_string();
    assert!(message.contains(place.file().to_str().unwrap()), "{message}");
    assert!(
        message.contains("deleted, moved or replaced") && message.contains("start this process again"),
        "{message}"
    );
}

/// All operations are refused, and none of them says that it may have happened.
async fn assert_all_refused(place: &Place, store: &Sqlite, held: &lease_core::Observation) {
    let renewal = store.put_if(&name(), held, &renewed(held), Change::Renew).await;
    assert_says_what_happened(place, &renewal.unwrap_err());
    assert_says_what_happened(place, &store.observe(&name()).await.unwrap_err());
    assert_says_what_happened(place, &store.list("").await.unwrap_err());
    assert_says_what_happened(place, &store.history(&name(), 1).await.unwrap_err());
    assert!(store.watch("").await.is_err());
}

#[tokio::test]
async fn a_replaced_file_has_no_two_holders() {
    let place = Place::new();
    let old = place.open().await;
    let held = acquire(&old, &init(&old).await, "old").await;
    move_away(&place);
    let new = place.open().await;
    let successor = acquire(&new, &init(&new).await, "new").await;
    assert_all_refused(&place, &old, &held).await;
    assert_ne!(successor.lineage, held.lineage);
    renew(&new, &successor).await;
}

#[tokio::test]
async fn a_file_replaced_by_a_copy_is_another_file() {
    let place = Place::new();
    let old = place.open().await;
    let held = acquire(&old, &init(&old).await, "old").await;
    let copy = place.folder().join("copy");
    sqlx::query("VACUUM INTO ?").bind(copy.to_str()).execute(&mut place.shell().await).await.unwrap();
    move_away(&place);
    fs::rename(copy, place.file()).unwrap();
    assert_all_refused(&place, &old, &held).await;

    let new = place.open().await;
    let seen = observe(&new).await;
    assert_eq!(seen.record, held.record);
    assert_ne!(seen.lineage, held.lineage, "so even a free register in the copy counts as held (T-3)");
    let outcome = new.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap();
    assert_eq!(outcome, lease_core::PutOutcome::Conflict(seen), "the tag is equal, the lineage is not (R-2)");
}

#[tokio::test]
async fn a_deleted_file_is_noticed() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    for file in files(&place) {
        fs::remove_file(file).unwrap();
    }
    assert_all_refused(&place, &store, &held).await;
    assert!(!place.file().exists(), "nobody creates it anew while it is in use");
}

/// Refusing for ever would leave a process that no supervisor starts again.
#[tokio::test]
async fn an_elector_whose_file_is_replaced_ends_its_term_and_itself() {
    let place = Place::new();
    init(&place.open().await).await;
    let ttl = Duration::from_secs(2);
    let elector = |holder: &str| {
        let connector = Sqlite::connector(place.config());
        Elector::builder(connector, name(), WorkloadId::new(holder).unwrap()).ttl(ttl).build().unwrap()
    };
    let (began, mut terms) = mpsc::channel(1);
    let holder = tokio::spawn(elector("holder").run_until(std::future::pending(), move |term| {
        let began = began.clone();
        async move {
            began.send(term.clone()).await.unwrap();
            term.stop_requested().await;
            Ok::<_, String>(())
        }
    }));
    let term = terms.recv().await.unwrap();
    let standby = elector("standby");
    let mut events = standby.events();
    let standby = tokio::spawn(standby.run_until(std::future::pending(), |_| async { Ok::<_, String>(()) }));
    while !matches!(events.next().await.unwrap().unwrap().kind, EventKind::Following(_)) {}

    move_away(&place);
    let replaced = Instant::now();
    init(&place.open().await).await;
    assert_eq!(term.lost().await, Loss::StoreGone);
    let gone = |ended| matches!(ended, Err(RunError::Refused(BackendError { gone: true, .. })));
    assert!(gone(holder.await.unwrap()));
    assert!(gone(standby.await.unwrap()));
    assert!(
        replaced.elapsed() >= ttl,
        "whoever follows the standby has not seen the holder: {:?}",
        replaced.elapsed()
    );
}

#[tokio::test]
async fn a_file_that_was_moved_away_works_again_when_it_is_moved_back() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    move_away(&place);
    assert_all_refused(&place, &store, &held).await;
    move_back(&place);
    assert_eq!(observe(&store).await, held, "nothing was written meanwhile");
    renew(&store, &held).await;
}

#[tokio::test]
async fn a_renamed_folder_is_noticed() {
    let place = Place::new();
    let folder = place.folder().join("data");
    fs::create_dir(&folder).unwrap();
    let config = lease_sqlite::SqliteConfig::new(folder.join("leases.sqlite")).unwrap();
    let store = Sqlite::connect(config).await.unwrap();
    let held = acquire(&store, &init(&store).await, "a").await;
    fs::rename(&folder, place.folder().join("old-data")).unwrap();
    let error = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap_err();
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, true), "{error}");
}

/// Without its `-wal`, the next process would see the leases as they were at the last checkpoint; without its `-shm`,
/// both would hold the write lock.
#[tokio::test]
async fn deleting_the_files_beside_the_database_is_noticed() {
    for missing in [1, 2] {
        let place = Place::new();
        let old = place.open().await;
        let held = acquire(&old, &init(&old).await, "old").await;
        fs::remove_file(&files(&place)[missing]).unwrap();
        assert_all_refused(&place, &old, &held).await;
        fs::File::create(&files(&place)[missing]).unwrap();
        assert_all_refused(&place, &old, &held).await;
    }
}

#[tokio::test]
async fn a_file_replaced_while_a_write_is_under_way_makes_its_outcome_unknown() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;

    // Somebody else's lock holds the write back, after its first look at the path.
    let mut blocker = place.shell().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut blocker).await.unwrap();
    let record = renewed(&held);
    let lease = name();
    let mut write = store.put_if(&lease, &held, &record, Change::Renew);
    assert!(futures::poll!(&mut write).is_pending());
    move_away(&place);
    sqlx::query("COMMIT").execute(&mut blocker).await.unwrap();

    let error = write.await.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    move_back(&place);
    assert_eq!(observe(&store).await.record, Some(record), "and indeed it was applied");
}

#[tokio::test]
async fn the_watch_ends_when_the_file_is_replaced() {
    let place = Place::new();
    let store = place.open().await;
    let mut hints = store.watch("").await.unwrap();
    move_away(&place);
    let _new = place.open().await;
    while hints.next().await.is_some() {}
    assert!(store.watch("").await.is_err());
}
