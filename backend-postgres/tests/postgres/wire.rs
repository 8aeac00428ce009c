//! Requests on the wire, and replies that are lost there.

use crate::common::*;
use futures::StreamExt;
use lease_core::{Certainty, Change, LeaseBackend};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Direction, Flow, Proxy};

/// A store, and a backend that reaches it through a proxy.
struct Proxied {
    store: Store,
    proxy: Proxy,
    backend: Postgres,
}

async fn proxied() -> anyhow::Result<Proxied> {
    let store = store().await?;
    let proxy = Proxy::postgres(store.server.addr())?;
    let url = proxy.url(&store.server.url())?;
    let backend = Postgres::connect(PostgresConfig::new(&url)?.schema(&store.schema)?).await?;
    Ok(Proxied { store, proxy, backend })
}

const WRITE: &str = "coordination_leases l SET";

#[tokio::test]
async fn each_successful_call_is_one_request_and_one_reply_from_the_first_on() -> anyhow::Result<()> {
    let Proxied { store, proxy, backend } = proxied().await?;
    let lease = name("trips");
    init(&store.backend, &lease).await?;
    let trips = |before: &lease_testbed::RoundTrips| {
        let all = proxy.round_trips().since(before);
        (all.total().requests, all.total().replies)
    };
    for round in 0..3 {
        let mut before = proxy.round_trips();
        let mut count = |what: &str, expected: u64| {
            assert_eq!(trips(&before), (expected, expected), "round {round}: {what}");
            before = proxy.round_trips();
        };
        let free = backend.observe(&lease).await?;
        count("observe", 1);
        let held = acquire(&backend, &lease, &free, "a").await?;
        count("acquire", 1);
        let beat = renew(&backend, &lease, &held).await?;
        count("renew", 1);
        conflict(backend.put_if(&lease, &held, &renewed(&held), Change::Renew).await?);
        count("a conflict", 2);
        release(&backend, &lease, &beat).await?;
        count("release", 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_renewal_is_a_bare_update_by_primary_key() -> anyhow::Result<()> {
    let Proxied { store, proxy, backend } = proxied().await?;
    let lease = name("bare");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    let before = proxy.round_trips();
    renew(&backend, &lease, &held).await?;
    let trips = proxy.round_trips().since(&before);
    let sql = trips.by_text().next().expect("one statement").0.to_owned();
    assert!(sql.starts_with("UPDATE ") && !sql.contains("WITH") && !sql.contains("notify"), "{sql}");
    let parameters = std::iter::repeat_n("NULL", 8).collect::<Vec<_>>().join(", ");
    let plan = format!(
        "PREPARE renewal AS {sql}; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
         EXPLAIN EXECUTE renewal({parameters})"
    );
    let plan = store.server.psql(&plan).await?;
    assert!(plan.contains("Index Scan using coordination_leases_pkey"), "{plan}");
    Ok(())
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_adopted_and_never_doubled() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("lost");
    let free = init(&backend, &lease).await?;
    let mine = acquired(&free, "a");
    let mut reply = proxy.lose_reply(|request| request.sql_contains(WRITE));
    let error = backend.put_if(&lease, &free, &mine, Change::Acquire).await.unwrap_err();
    assert_eq!((error.certainty, error.refused), (Certainty::Unknown, false), "{error}");
    reply.lost().await?;

    let again = backend.put_if(&lease, &free, &mine, Change::Acquire).await?;
    let seen = conflict(again);
    assert_eq!(seen.record.as_ref(), Some(&mine), "the first attempt was applied");
    let confirmed = renew(&backend, &lease, &seen).await?;

    // The same with a beat and with a release.
    let _reply = proxy.lose_reply(|request| request.sql_contains(WRITE));
    let beat = renewed(&confirmed);
    let error = backend.put_if(&lease, &confirmed, &beat, Change::Renew).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown);
    let seen = backend.observe(&lease).await?;
    assert_eq!(seen.record, Some(beat));
    let _reply = proxy.lose_reply(|request| request.sql_contains(WRITE));
    let free = released(&seen);
    let error = backend.put_if(&lease, &seen, &free, Change::Release).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown);
    assert_eq!(conflict(backend.put_if(&lease, &seen, &free, Change::Release).await?).record, Some(free));
    assert_eq!(backend.history(&lease, 10).await?.len(), 2, "one acquisition, one release");
    Ok(())
}

#[tokio::test]
async fn a_write_that_never_reached_the_server_is_unknown_too() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("discarded");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    let mut hold = proxy.hold(|request| request.sql_contains(WRITE));
    let discard = async {
        hold.held().await?;
        hold.discard();
        anyhow::Ok(())
    };
    let beat = renewed(&held);
    let (outcome, discarded) = tokio::join!(backend.put_if(&lease, &held, &beat, Change::Renew), discard);
    discarded?;
    assert_eq!(outcome.unwrap_err().certainty, Certainty::Unknown);
    assert_eq!(backend.observe(&lease).await?.record, held.record);
    Ok(())
}

#[tokio::test]
async fn a_late_write_of_an_old_term_changes_nothing() -> anyhow::Result<()> {
    let Proxied { store, proxy, backend } = proxied().await?;
    let lease = name("late");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    for (late, change) in [(renewed(&held), Change::Renew), (released(&held), Change::Release)] {
        let mut hold = proxy.hold(|request| request.sql_contains(WRITE));
        let take_over = async {
            hold.held().await?;
            let seen = store.backend.observe(&lease).await?;
            let taken = acquire(&store.backend, &lease, &seen, "b").await?;
            hold.release();
            anyhow::Ok(taken)
        };
        let (outcome, taken) = tokio::join!(backend.put_if(&lease, &held, &late, change), take_over);
        assert_eq!(conflict(outcome?).record, taken?.record);
    }
    Ok(())
}

#[tokio::test]
async fn without_a_connection_nothing_is_applied_for_certain() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("down");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    proxy.refuse(true).await?;
    proxy.cut().await;
    let beat = renewed(&held);
    let first = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!(first.certainty, Certainty::Unknown, "it was sent on a connection that was cut: {first}");
    let second = backend.put_if(&lease, &held, &beat, Change::Renew).await.unwrap_err();
    assert_eq!((second.certainty, second.refused), (Certainty::NotApplied, false), "{second}");
    assert!(backend.observe(&lease).await.is_err());
    proxy.refuse(false).await?;
    renew(&backend, &lease, &held).await?;
    Ok(())
}

#[tokio::test]
async fn a_silent_connection_is_left_and_the_next_call_takes_a_new_one() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("half-open");
    let held = acquire(&backend, &lease, &init(&backend, &lease).await?, "a").await?;
    let (opened, beat) = (proxy.open_connections(), renewed(&held));
    let mut write = backend.put_if(&lease, &held, &beat, Change::Renew);
    let mut hold = proxy.hold(|request| request.sql_contains(WRITE));
    tokio::select! {
        outcome = &mut write => panic!("it is held back: {outcome:?}"),
        held = hold.held() => drop(held?),
    }
    // Beside it, as U-5 allows; and it can still be dropped.
    renew(&backend, &lease, &held).await?;
    drop(write);
    hold.discard();
    renew(&backend, &lease, &backend.observe(&lease).await?).await?;
    assert!(proxy.open_connections() <= opened);
    Ok(())
}

#[tokio::test]
async fn a_watch_whose_server_has_gone_silent_ends() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let mut hints = backend.watch("").await?;
    proxy.set_flow(Direction::ToClient, Flow::Drop);
    assert_eq!(tokio::time::timeout(LIMIT, hints.next()).await?, None);
    Ok(())
}
