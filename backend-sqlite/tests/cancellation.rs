//! U-4: a future may be dropped at any await. Each test drops one after 0, 1, 2, … steps until it completes.

mod common;

use std::time::Duration;

use common::*;
use lease_core::{BackendError, Change, HistoryEvent, LeaseBackend, PutOutcome};
use lease_sqlite::Sqlite;
use sqlx::Connection;

/// Nobody holds the write lock, and nobody reads an old snapshot for ever: the log can be checkpointed away.
async fn assert_nothing_is_held(place: &Place) {
    let mut shell = place.shell().await;
    let transaction = shell.begin_with("BEGIN IMMEDIATE").await.expect("no lock is left behind");
    transaction.rollback().await.unwrap();
    let blocked: i64 =
        sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut shell).await.unwrap();
    assert_eq!(blocked, 0, "a reader is left behind");
}

#[tokio::test]
async fn a_write_dropped_at_any_await_leaves_no_lock_and_the_next_one_works() {
    let place = Place::new();
    let store = place.open().await;
    let mut now = init(&store).await;
    let (mut steps, mut acquisitions, mut completed, mut applied_all_the_same) = (0, 0, 0, 0);
    // A fast answer leaves no time to be dropped in; so until there was some.
    while completed == 0 || applied_all_the_same < 5 {
        let record = acquired(&now, "dropped");
        let outcome = stopped(steps, store.put_if(&name(), &now, &record, Change::Acquire)).await;
        if let Some(outcome) = outcome {
            let Ok(PutOutcome::Written(written)) = outcome else { panic!("{outcome:?}") };
            now = written;
            (steps, acquisitions, completed) = (0, acquisitions + 1, completed + 1);
            continue;
        }
        steps += 1;
        // The outcome is unknown: a write on what was seen before settles it.
        let next = acquired(&now, "next");
        now = match store.put_if(&name(), &now, &next, Change::Acquire).await.unwrap() {
            PutOutcome::Written(now) => now,
            PutOutcome::Conflict(seen) => {
                assert_eq!(seen.record.as_ref(), Some(&record), "a conflict only with the dropped write");
                (acquisitions, applied_all_the_same) = (acquisitions + 1, applied_all_the_same + 1);
                acquire(&store, &seen, "next").await
            }
        };
        acquisitions += 1;
        assert_nothing_is_held(&place).await;
    }
    let rows = store.history(&name(), 1000).await.unwrap();
    assert_eq!(rows.len(), acquisitions, "one row for each acquisition that was applied");
    assert!(
        rows.iter().all(|row| matches!(row.event_type, HistoryEvent::Acquired | HistoryEvent::TakenOver))
    );
}

#[tokio::test]
async fn a_write_dropped_while_it_waits_for_the_lock_is_never_applied() {
    let place = Place::new();
    let config = place.config().busy_timeout(Duration::from_millis(50)).unwrap();
    let store = Sqlite::connect(config).await.unwrap();
    let held = acquire(&store, &init(&store).await, "a").await;
    let mut blocker = place.shell().await;
    let transaction = blocker.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for steps in 0..20 {
        let dropped = stopped(steps, store.put_if(&name(), &held, &renewed(&held), Change::Renew)).await;
        // On a busy machine its own wait may end first, which must say that nothing was applied.
        let harmless = |outcome: &Result<_, lease_core::BackendError>| {
            outcome.as_ref().is_err_and(|error| error.certainty == lease_core::Certainty::NotApplied)
        };
        assert!(dropped.as_ref().is_none_or(harmless), "after {steps} steps: {dropped:?}");
        assert_eq!(observe(&store).await, held, "reads don't wait behind it");
    }
    // Whatever was sent before this one has ended when it fails.
    let error = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap_err();
    assert_eq!(error.certainty, lease_core::Certainty::NotApplied, "{error}");
    transaction.rollback().await.unwrap();
    assert_eq!(observe(&store).await, held);
    renew(&store, &held).await;
    assert_nothing_is_held(&place).await;
}

#[tokio::test]
async fn a_read_dropped_at_any_await_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    let reads: [(&str, Reading); 4] = [
        ("observe", Box::new(|store| Box::pin(async { store.observe(&name()).await.map(drop) }))),
        ("list", Box::new(|store| Box::pin(async { store.list("").await.map(drop) }))),
        ("history", Box::new(|store| Box::pin(async { store.history(&name(), 9).await.map(drop) }))),
        ("watch", Box::new(|store| Box::pin(async { store.watch("").await.map(drop) }))),
    ];
    for (operation, read) in &reads {
        let (mut steps, mut halfway) = (0, 0);
        while halfway < 5 {
            if let Some(answer) = stopped(steps, read(&store)).await {
                answer.unwrap_or_else(|error| panic!("{operation}: {error}"));
                steps = 0;
                continue;
            }
            halfway += usize::from(steps > 0);
            steps += 1;
            assert_eq!(observe(&store).await, held, "{operation} after {steps} steps");
            assert_nothing_is_held(&place).await;
        }
    }
}

type Reading =
    Box<dyn for<'a> Fn(&'a Sqlite) -> std::pin::Pin<Box<dyn Future<Output = Result<(), BackendError>> + 'a>>>;

#[tokio::test]
async fn opening_dropped_at_any_await_leaves_a_file_that_opens() {
    let mut drops = 0;
    for steps in 0.. {
        let place = Place::new();
        let opened = stopped(steps, Sqlite::connect(place.config())).await;
        let done = opened.is_some();
        if let Some(opened) = opened {
            opened.unwrap();
        }
        drops += usize::from(!done);
        let store = place.open().await;
        acquire(&store, &init(&store).await, "a").await;
        assert_nothing_is_held(&place).await;
        if done {
            break;
        }
    }
    assert!(drops > 5, "opening was dropped at {drops} places only");
}
