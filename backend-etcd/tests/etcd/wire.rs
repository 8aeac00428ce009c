//! Requests on the wire, and replies that are lost there.

use std::time::Duration;

use crate::common::*;
use lease_core::{Certainty, Change, LeaseBackend};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{Direction, Proxy, RoundTrips, wait_until};

/// A store, and a backend that reaches it through a proxy.
struct Proxied {
    store: Store,
    proxy: Proxy,
    config: EtcdConfig,
    backend: Etcd,
}

async fn proxied() -> anyhow::Result<Proxied> {
    let store = store().await?;
    let proxy = Proxy::grpc(store.cluster.members()[0].addr())?;
    let config = EtcdConfig::new([format!("http://{}", proxy.addr())])?.prefix(&store.prefix)?;
    let backend = Etcd::connect(config.clone()).await?;
    Ok(Proxied { store, proxy, config, backend })
}

const TXN: &str = "/etcdserverpb.KV/Txn";
const RANGE: &str = "/etcdserverpb.KV/Range";

#[tokio::test]
async fn each_call_is_one_request_and_one_reply_conflicts_too() -> anyhow::Result<()> {
    let Proxied { store, proxy, backend, .. } = proxied().await?;
    let lease = name("trips");
    let free = init(&store.backend, &lease).await?;
    let mut before = proxy.round_trips();
    let mut only = |what: &str, path: &str| {
        let since: RoundTrips = proxy.round_trips().since(&before);
        let (all, of_path) = (since.total(), since.matching(path));
        assert_eq!((all.requests, all.replies, of_path), (1, 1, all), "{what}: {since:?}");
        before = proxy.round_trips();
    };
    backend.observe(&lease).await?;
    only("observe", RANGE);
    let held = acquire(&backend, &lease, &free, "a").await?;
    only("acquire", TXN);
    let beat = renew(&backend, &lease, &held).await?;
    only("renew", TXN);
    let shown = conflict(backend.put_if(&lease, &held, &renewed(&held), Change::Renew).await?);
    assert_eq!(shown.record, beat.record);
    only("a conflict", TXN);
    release(&backend, &lease, &beat).await?;
    only("release", TXN);
    backend.list("").await?;
    only("list", RANGE);
    backend.history(&lease, 10).await?;
    only("history", RANGE);
    Ok(())
}

#[tokio::test]
async fn a_write_whose_reply_was_lost_is_unknown_and_never_doubled() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("lost");
    let mut seen = init(&backend, &lease).await?;
    for change in [Change::Acquire, Change::Renew, Change::Release] {
        let record = match change {
            Change::Acquire => acquired(&seen, "a"),
            Change::Renew => renewed(&seen),
            _ => released(&seen),
        };
        let mut reply = proxy.lose_reply(|request| request.calls("KV/Txn"));
        let error = backend.put_if(&lease, &seen, &record, change).await.expect_err("no reply");
        assert_eq!((error.certainty, error.refused), (Certainty::Unknown, false), "{change:?}: {error}");
        reply.lost().await?;
        // It was applied; the same again only conflicts, and shows it.
        let shown = conflict(backend.put_if(&lease, &seen, &record, change).await?);
        assert_eq!(shown.record, Some(record), "{change:?}");
        seen = shown;
    }
    assert_eq!(backend.history(&lease, 10).await?.len(), 2, "one acquisition, one release");
    Ok(())
}

#[tokio::test]
async fn a_write_that_never_reached_etcd_is_unknown_too() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("discarded");
    let held = held(&backend, &lease).await?;
    let mut hold = proxy.hold(|request| request.calls("KV/Txn"));
    let discard = async {
        hold.held().await?;
        hold.discard();
        anyhow::Ok(())
    };
    let beat = renewed(&held);
    let (outcome, discarded) = tokio::join!(backend.put_if(&lease, &held, &beat, Change::Renew), discard);
    discarded?;
    let error = outcome.expect_err("the connection was cut");
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    assert_eq!(backend.observe(&lease).await?.record, held.record);
    renew(&backend, &lease, &held).await?;
    Ok(())
}

/// U-1: the write that nobody waits for any more arrives late, after the next one.
#[tokio::test]
async fn a_held_write_that_arrives_late_changes_nothing() -> anyhow::Result<()> {
    let Proxied { store, proxy, backend, .. } = proxied().await?;
    let lease = name("late");
    let held = held(&backend, &lease).await?;
    let mut hold = proxy.hold(|request| request.calls("KV/Txn"));
    let beat = renewed(&held);
    tokio::select! {
        outcome = backend.put_if(&lease, &held, &beat, Change::Renew) => panic!("not held: {outcome:?}"),
        caught = hold.held() => assert!(caught?.contains(beat.tag.to_string())),
    }
    // The dropped call's connection is given up: the next one isn't behind it.
    let next = renew(&backend, &lease, &held).await?;
    let before = proxy.round_trips();
    hold.release();
    wait_until("the late write has arrived", LIMIT, async || {
        proxy.round_trips().since(&before).matching(TXN).requests == 1
    })
    .await?;
    // Whatever etcd makes of a call that was given up: it is not behind this one.
    let after = renew(&store.backend, &lease, &next).await?;
    assert_eq!(record(&after).beat, record(&held).beat + 2);
    Ok(())
}

#[tokio::test]
async fn a_call_that_gets_no_answer_ends_by_itself() -> anyhow::Result<()> {
    let Proxied { proxy, config, backend, .. } = proxied().await?;
    let lease = name("stalled");
    let held = held(&backend, &lease).await?;
    let backend = Etcd::connect(config.call_timeout(Duration::from_secs(2))?).await?;
    backend.observe(&lease).await?;
    proxy.set_flow(Direction::ToClient, lease_testbed::Flow::Drop);
    let beat = renewed(&held);
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.expect_err("no answer");
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    // A new connection, which gets no answer either: nothing was sent on it.
    let error = backend.put_if(&lease, &held, &beat, Change::Renew).await.expect_err("no connection");
    assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
    let error = backend.observe(&lease).await.expect_err("no answer");
    assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
    proxy.heal();
    wait_until("it answers again", LIMIT, async || {
        backend.observe(&lease).await.is_ok_and(|seen| seen.record == Some(beat.clone()))
    })
    .await
}

#[tokio::test]
async fn without_a_connection_nothing_is_applied() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("refused");
    let held = held(&backend, &lease).await?;
    proxy.refuse(true).await?;
    proxy.cut().await;
    // The first may find the old connection broken; the second surely opens one.
    let _ = backend.observe(&lease).await;
    let error = backend.put_if(&lease, &held, &renewed(&held), Change::Renew).await.expect_err("refused");
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, false), "{error}");
    assert!(error.to_string().contains(&proxy.addr().to_string()), "{error}");
    proxy.refuse(false).await?;
    renew(&backend, &lease, &held).await?;
    Ok(())
}

/// The elector's attempts get shorter as its deadline comes near; a connection takes longer to open than any of them.
#[tokio::test]
async fn attempts_shorter_than_an_opening_get_there_all_the_same() -> anyhow::Result<()> {
    let Proxied { proxy, backend, .. } = proxied().await?;
    let lease = name("slow");
    let held = held(&backend, &lease).await?;
    proxy.cut().await;
    let _ = backend.observe(&lease).await;
    proxy.cut().await;
    // 600 ms a round trip: an opening and a call take 1200 ms at least.
    proxy.set_delay(Direction::ToServer, Duration::from_millis(300));
    proxy.set_delay(Direction::ToClient, Duration::from_millis(300));
    let attempt = async || {
        tokio::time::timeout(Duration::from_secs(1), backend.observe(&lease))
            .await
            .is_ok_and(|seen| seen.is_ok_and(|seen| seen.record == held.record))
    };
    wait_until("an attempt of a second succeeds", LIMIT, attempt).await
}

#[tokio::test]
async fn a_renewal_writes_the_beat_alone() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("beat");
    let held = held(&store.backend, &lease).await?;
    let term = store.key(&lease, "term");
    let versions = async |part: &str| {
        let text = store.cluster.ctl(&["get", "-w", "fields", &store.key(&lease, part)]).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("\"Version\" : "));
        line.and_then(|version| version.parse::<u64>().ok()).ok_or_else(|| anyhow::anyhow!("{text}"))
    };
    let (term_before, beat_before) = (versions("term").await?, versions("beat").await?);
    assert_eq!(store.value(&term).await?, record(&held).term().expect("held").to_string());
    let beat = renew(&store.backend, &lease, &renew(&store.backend, &lease, &held).await?).await?;
    assert_eq!((versions("term").await?, versions("beat").await?), (term_before, beat_before + 2));
    release(&store.backend, &lease, &beat).await?;
    assert_eq!((versions("term").await?, versions("beat").await?), (term_before + 1, beat_before + 3));
    assert_eq!(store.value(&term).await?, format!("{}/free", record(&held).epoch));
    Ok(())
}
