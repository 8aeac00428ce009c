//! Lease files and fences of earlier versions, as they lie on disks.

mod common;

use common::*;
use lease_conformance::by_hand::{name, record, renew};
use lease_core::{Grant, LeaseBackend, Term};
use lease_sqlite::{Fence, FenceError};
use sqlx::Connection;

const FIRST: &str = include_str!("forms/first.sql");
const FIRST_FENCE: &str = include_str!("forms/first-fence.sql");

/// The grant in both.
const GRANT: Grant = Grant(0xfedc_ba98_7654_3210_fedc_ba98_7654_3210);

#[tokio::test]
async fn the_first_versions_lease_file_is_read_and_renewed_with_all_that_is_in_it() {
    let place = Place::new();
    std::fs::File::create(place.file()).unwrap();
    let mut shell = place.shell().await;
    sqlx::raw_sql(FIRST).execute(&mut shell).await.unwrap();
    let (backend, lease) = (place.open().await, name("forwarder"));
    let seen = backend.observe(&lease).await.unwrap();
    assert_eq!((record(&seen).term(), seen.floor), (Some(Term { epoch: 42, grant: GRANT }), 42));
    let seen = renew(&backend, &lease, &seen).await.unwrap();
    assert_eq!((record(&seen).beat, record(&seen).request.is_some()), (8, true));
    assert_eq!(record(&seen).extra["of_a_later_version"], serde_json::json!({ "n": [1, 2] }));
    assert_eq!(backend.history(&lease, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_first_versions_fence_keeps_its_mark_and_learns_the_ceiling() {
    let place = Place::new();
    std::fs::File::create(place.file()).unwrap();
    let mut database = place.shell().await;
    sqlx::raw_sql(FIRST_FENCE).execute(&mut database).await.unwrap();
    let fence = Fence::new("outbox");
    fence.install(&mut database).await.unwrap();
    assert_eq!(fence.mark(&mut database).await.unwrap(), Some(Term { epoch: 42, grant: GRANT }));
    let mut transaction = database.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let above = Term { epoch: Term::MAX_EPOCH + 1, grant: GRANT };
    let refused = fence.admit(&mut transaction, &above).await.unwrap_err();
    assert!(matches!(refused, FenceError::AboveCeiling(_)), "{refused}");
}
