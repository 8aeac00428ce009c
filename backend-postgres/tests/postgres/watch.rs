//! Watches: their hints, and forged notifications.

use crate::common::*;
use futures::{FutureExt, StreamExt};
use lease_core::{Change, Hint, LeaseBackend, PutOutcome, Record};

#[tokio::test]
async fn releases_requests_and_revocations_wake_a_watch_and_beats_do_not() -> anyhow::Result<()> {
    use lease_core::internal::writes::{self, Fresh};
    let store = store().await?;
    let (lease, other) = (name("watched.one"), name("other"));
    let mut seen = init(&store.backend, &lease).await?;
    let elsewhere = acquire(&store.backend, &other, &init(&store.backend, &other).await?, "a").await?;
    let mut hints = store.backend.watch("watched").await?;

    let shown = async |hints: &mut lease_core::Hints| match tokio::time::timeout(LIMIT, hints.next()).await {
        Ok(Some(Hint::Shows(shown, observation))) if shown == lease => observation.record,
        other => panic!("nothing of {lease} was shown, but {other:?}"),
    };
    // Notifications come in the order of commits: whatever came before the marker was heard when it is.
    let mut listener = sqlx::postgres::PgListener::connect(&store.server.url()).await?;
    listener.listen(&format!("leasehold_{}", store.schema)).await?;
    seen = acquire(&store.backend, &lease, &seen, "a").await?;
    seen = renew(&store.backend, &lease, &seen).await?;
    release(&store.backend, &other, &elsewhere).await?;
    let heard = tokio::time::timeout(LIMIT, listener.recv()).await??;
    assert!(heard.payload().contains(r#""lease":"other""#), "neither acquisition nor beat notifies");
    assert!(hints.next().now_or_never().is_none(), "another prefix");

    let grant = record(&seen).grant.expect("held");
    let asked = writes::request(record(&seen), grant, lease_core::RequestId(1), "ops", &Fresh::random());
    seen = written(store.backend.put_if(&lease, &seen, &asked, Change::Request).await?);
    assert_eq!(shown(&mut hints).await, seen.record);
    seen = release(&store.backend, &lease, &seen).await?;
    assert_eq!(shown(&mut hints).await, seen.record);
    let revoked = writes::revoke(&seen, record(&seen), 0, false, "", &Fresh::random());
    seen = written(store.backend.put_if(&lease, &seen, &revoked, Change::Revoke).await?);
    assert_eq!(shown(&mut hints).await, seen.record);

    // Too long to be shown: then it only wakes.
    let long = Record { note: "x".repeat(9_000), ..record(&seen).clone() };
    written(store.backend.put_if(&lease, &seen, &long, Change::Revoke).await?);
    assert_eq!(tokio::time::timeout(LIMIT, hints.next()).await?, Some(Hint::Changed));
    Ok(())
}

/// Whoever may connect may notify; whoever may read the table knows the tag.
#[tokio::test]
async fn a_forged_notification_takes_nothing_that_is_held() -> anyhow::Result<()> {
    use lease_core::internal::writes::{self, Fresh};
    let store = store().await?;
    let lease = name("coveted");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    let mut hints = store.backend.watch("coveted").await?;
    let free = Record { grant: None, ..record(&held).clone() };
    let forged = serde_json::json!({"lease": lease, "lineage": held.lineage, "floor": 0, "record": free});
    store.psql(&format!("SELECT pg_notify('leasehold_{{s}}', '{forged}')")).await?;
    let Some(Hint::Shows(_, shown)) = tokio::time::timeout(LIMIT, hints.next()).await? else {
        panic!("the forgery is well-formed");
    };
    assert_eq!(shown.record, Some(free));

    let (fresh, who) = (Fresh::random(), candidate("b"));
    let taken = writes::acquire(&shown, shown.record.as_ref().expect("free"), &who, fresh.grant, &fresh);
    let outcome = store.backend.put_if(&lease, &shown, &taken, Change::Acquire).await?;
    assert!(matches!(outcome, PutOutcome::Conflict(ref found) if found.record == held.record), "{outcome:?}");
    Ok(())
}
