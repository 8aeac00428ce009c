//! Crashes, replication, promotion: two real servers.

use std::sync::Arc;

use crate::common::*;
use lease_core::{Certainty, Change, Connector, LeaseBackend};
use lease_postgres::listen::Listener;
use lease_postgres::pool::{DURABLE, Pool};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Postgres as Server, PostgresOptions, Proxy, StandbyOptions, wait_until};

async fn primary() -> anyhow::Result<Server> {
    let server = Server::start(PostgresOptions::default()).await?;
    lease_postgres::migrate(&PostgresConfig::new(&server.url())?).await?;
    Ok(server)
}

async fn backend(server: &Server) -> anyhow::Result<Postgres> {
    Ok(Postgres::connect(PostgresConfig::new(&server.url())?).await?)
}

#[tokio::test]
async fn a_promoted_standby_refuses_what_was_expected_of_the_old_primary() -> anyhow::Result<()> {
    let old = primary().await?;
    let standby = old.standby(StandbyOptions::asynchronous("b")).await?;
    let on_old = backend(&old).await?;
    let (held_name, free_name) = (name("held"), name("free"));
    let held = acquire(&on_old, &held_name, &init(&on_old, &held_name).await?, "a").await?;
    let free = acquire(&on_old, &free_name, &init(&on_old, &free_name).await?, "a").await?;
    let free = release(&on_old, &free_name, &free).await?;
    standby.catch_up_with(&old).await?;

    // One that only follows can't be used, now; it may be promoted, so trying again may help.
    let error = backend(&standby).await.expect_err("a standby").downcast::<lease_core::BackendError>()?;
    assert!(!error.refused && error.to_string().contains("standby"), "{error}");

    old.crash().await?;
    standby.promote().await?;
    let on_new = backend(&standby).await?;
    let found = conflict(on_new.put_if(&held_name, &held, &renewed(&held), Change::Renew).await?);
    assert_ne!(found.lineage, held.lineage);
    assert_eq!(found.record, held.record, "the same register, in another history");
    renew(&on_new, &held_name, &found).await?;

    // T-3: what was freed under the old lineage is not offered as freed under the present one.
    let claim = acquired(&free, "b");
    let found = conflict(on_new.put_if(&free_name, &free, &claim, Change::Acquire).await?);
    assert_eq!(found.record, free.record);
    assert_ne!(record(&found).lineage, found.lineage);
    Ok(())
}

#[tokio::test]
async fn epochs_rise_over_a_failover_that_lost_an_acquisition() -> anyhow::Result<()> {
    let old = primary().await?;
    let standby = old.standby(StandbyOptions::asynchronous("b")).await?;
    let on_old = backend(&old).await?;
    let lease = name("lost");
    let free = init(&on_old, &lease).await?;
    standby.catch_up_with(&old).await?;
    standby.stop_fast().await?;
    let mut lost = free.clone();
    for _ in 0..40 {
        // Beyond the 32 values that the sequence's log record runs ahead.
        lost = acquire(&on_old, &lease, &lost, "a").await?;
    }
    old.crash().await?;
    standby.start_again().await?;
    standby.promote().await?;

    let on_new = backend(&standby).await?;
    let seen = on_new.observe(&lease).await?;
    assert_eq!(seen.record, free.record, "the acquisitions are gone");
    let held = acquire(&on_new, &lease, &seen, "b").await?;
    assert!(record(&held).epoch > record(&lost).epoch);
    Ok(())
}

#[tokio::test]
async fn an_old_primary_is_refused_by_whoever_has_seen_the_new_one() -> anyhow::Result<()> {
    let old = primary().await?;
    let standby = old.standby(StandbyOptions::asynchronous("b")).await?;
    // One address, as of a service that follows the primary.
    let service = Proxy::postgres(old.addr())?;
    let connector = Postgres::connector(PostgresConfig::new(&service.url(&old.url())?)?);
    let connected: Arc<dyn LeaseBackend> = connector.connect().await?;
    let lease = name("isolated");
    let held = acquire(&*connected, &lease, &init(&*connected, &lease).await?, "a").await?;
    standby.catch_up_with(&old).await?;
    standby.promote().await?;

    service.switch_upstream(standby.addr());
    service.cut().await;
    assert!(connected.observe(&lease).await.is_err());
    let seen = connected.observe(&lease).await?;
    assert_ne!(seen.lineage, held.lineage);

    service.switch_upstream(old.addr());
    service.cut().await;
    assert!(connected.observe(&lease).await.is_err());
    for error in [
        connected.observe(&lease).await.unwrap_err(),
        connected.put_if(&lease, &held, &renewed(&held), Change::Renew).await.unwrap_err(),
        connector.connect().await.err().expect("the connector remembers"),
    ] {
        assert!(error.refused && error.to_string().contains("old primary"), "{error}");
        assert_eq!(error.certainty, Certainty::NotApplied);
    }
    let there = backend(&old).await?.observe(&lease).await?;
    assert_eq!(there.record, held.record, "nothing was written there");

    service.switch_upstream(standby.addr());
    renew(&*connected, &lease, &connected.observe(&lease).await?).await?;
    Ok(())
}

/// The old primary is read-only, and nobody closes its connections: only a new one reaches the new primary.
#[tokio::test]
async fn connections_to_a_demoted_primary_are_left_for_the_new_one() -> anyhow::Result<()> {
    let old = primary().await?;
    old.psql("CREATE TABLE effects (n int)").await?;
    let standby = old.standby(StandbyOptions::asynchronous("b")).await?;
    let service = Proxy::postgres(old.addr())?;
    let url = service.url(&old.url())?;
    let pool = Pool::checked(&url.parse()?, 2, LIMIT, DURABLE);
    let write = async || {
        let insert = sqlx::query("INSERT INTO effects VALUES (1)");
        pool.call(async |c| insert.execute(c).await.map(drop)).await
    };
    pool.call(async |_| write().await).await?;
    let holder = Postgres::connect(PostgresConfig::new(&url)?).await?;
    let candidate = Postgres::connect(PostgresConfig::new(&url)?).await?;
    let mut listener = Listener::connect(&url.parse()?, "anything").await?;
    let lease = name("demoted");
    let held = acquire(&holder, &lease, &init(&holder, &lease).await?, "a").await?;

    old.set("default_transaction_read_only", "on").await?;
    standby.catch_up_with(&old).await?;
    standby.promote().await?;
    // While the address still leads there, everybody says what is wrong, again and again.
    for _ in 0..2 {
        let read_only = [
            write().await.expect_err("it is read-only").to_string(),
            holder.put_if(&lease, &held, &renewed(&held), Change::Renew).await.unwrap_err().to_string(),
            candidate.observe(&lease).await.expect_err("nobody renews there any more").to_string(),
        ];
        assert!(read_only.iter().all(|error| error.contains("read-only")), "{read_only:#?}");
    }
    let deaf = listener.recv().await.expect_err("nobody notifies there any more");
    assert!(deaf.to_string().contains("read-only"), "{deaf}");

    service.switch_upstream(standby.addr());
    write().await?;
    assert_eq!(standby.psql("SELECT count(*) FROM effects").await?, "2");
    let seen = candidate.observe(&lease).await?;
    assert_eq!(seen.record, held.record);
    renew(&holder, &lease, &holder.observe(&lease).await?).await?;
    Ok(())
}

/// A primary whose every commit waits for a standby that is paused, and a renewal that waits there.
async fn waits_for_the_standby(server: &Server) -> anyhow::Result<()> {
    wait_until("a commit waits for the standby", LIMIT, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        server.psql(waiting).await.is_ok_and(|n| n == "1")
    })
    .await
}

#[tokio::test]
async fn a_crash_shows_a_write_that_was_never_acknowledged() -> anyhow::Result<()> {
    let server = primary().await?;
    let standby = server.standby(StandbyOptions::synchronous("b")).await?;
    let store = backend(&server).await?;
    let lease = name("unacknowledged");
    let free = init(&store, &lease).await?;
    standby.pause().await?;

    let mine = acquired(&free, "a");
    tokio::select! {
        outcome = store.put_if(&lease, &free, &mine, Change::Acquire) => panic!("acknowledged: {outcome:?}"),
        waits = waits_for_the_standby(&server) => waits?,
    }
    assert_eq!(store.observe(&lease).await?.record, free.record, "nobody sees it before it is acknowledged");
    server.crash().await?;
    server.start_again().await?;
    let store = backend(&server).await?;
    let seen = store.observe(&lease).await?;
    assert_eq!(seen.record.as_ref(), Some(&mine), "so seeing one's own grant proves nothing (U-2)");
    // The only proof is a beat that is acknowledged, and that waits for the standby as the acquisition did.
    let beat = renewed(&seen);
    tokio::select! {
        outcome = store.put_if(&lease, &seen, &beat, Change::Renew) => panic!("acknowledged: {outcome:?}"),
        waits = waits_for_the_standby(&server) => waits?,
    }
    standby.resume()?;
    Ok(())
}

#[tokio::test]
async fn a_terminated_wait_for_the_standby_is_unknown() -> anyhow::Result<()> {
    let server = primary().await?;
    let standby = server.standby(StandbyOptions::synchronous("b")).await?;
    let store = backend(&server).await?;
    let lease = name("terminated");
    let held = acquire(&store, &lease, &init(&store, &lease).await?, "a").await?;
    standby.pause().await?;
    let beat = renewed(&held);
    let terminate = async {
        waits_for_the_standby(&server).await?;
        server
            .psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            .await
    };
    let (outcome, terminated) = tokio::join!(store.put_if(&lease, &held, &beat, Change::Renew), terminate);
    terminated?;
    let error = outcome.unwrap_err();
    assert_eq!(error.certainty, Certainty::Unknown, "{error}");
    assert_eq!(store.observe(&lease).await?.record, Some(beat), "it was committed here all the same");
    standby.resume()?;
    Ok(())
}

#[tokio::test]
async fn synchronous_replication_is_checked_where_it_is_asked_for() -> anyhow::Result<()> {
    let server = primary().await?;
    let config = PostgresConfig::new(&server.url())?.require_synchronous_replication(true);
    let error = Postgres::connect(config.clone()).await.expect_err("no standby");
    assert!(error.refused && error.to_string().contains("synchronous_standby_names"), "{error}");

    let _standby = server.standby(StandbyOptions::synchronous("b")).await?;
    let store = Postgres::connect(config).await?;
    let lease = name("checked");
    let held = acquire(&store, &lease, &init(&store, &lease).await?, "a").await?;
    let held = renew(&store, &lease, &held).await?;

    // It ends while the connection is open: the statement itself refuses.
    for (setting, bad, good) in
        [("synchronous_commit", "local", "on"), ("synchronous_standby_names", "", "b")]
    {
        server.set(setting, bad).await?;
        let error = store.put_if(&lease, &held, &renewed(&held), Change::Renew).await.unwrap_err();
        assert!(error.refused && error.certainty == Certainty::NotApplied, "{setting}: {error}");
        server.set(setting, good).await?;
    }
    renew(&store, &lease, &held).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_forgets_acknowledged_writes_is_refused() -> anyhow::Result<()> {
    let server = primary().await?;
    let store = backend(&server).await?;
    let lease = name("durable");
    let held = acquire(&store, &lease, &init(&store, &lease).await?, "a").await?;
    for setting in ["synchronous_commit", "fsync"] {
        server.set(setting, "off").await?;
        // On connections that are open: nothing is written, and the message says what to do.
        for (record, change) in [
            (renewed(&held), Change::Renew),
            (released(&held), Change::Release),
            (acquired(&held, "b"), Change::Acquire),
        ] {
            let error = store.put_if(&lease, &held, &record, change).await.unwrap_err();
            assert!(
                error.refused && error.certainty == Certainty::NotApplied,
                "{setting} {change:?}: {error}"
            );
            assert!(error.to_string().contains(&format!("{setting} = on")), "{error}");
        }
        assert!(store.observe(&lease).await.unwrap_err().refused);
        let error = Postgres::connect(PostgresConfig::new(&server.url())?).await.expect_err(setting);
        assert!(error.refused, "{error}");
        server.set(setting, "on").await?;
        assert_eq!(store.observe(&lease).await?.record, held.record);
    }

    // A role's own default.
    server.create_role("lax", "secret").await?;
    server.psql("GRANT ALL ON ALL TABLES IN SCHEMA public TO lax; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO lax").await?;
    server.psql("ALTER ROLE lax SET synchronous_commit = off").await?;
    let lax = PostgresConfig::new(&server.url_for("postgres", "lax", "secret"))?;
    let error = Postgres::connect(lax.clone()).await.expect_err("its default is off");
    assert!(error.refused && error.to_string().contains("ALTER ROLE lax"), "{error}");
    server.psql("ALTER ROLE lax RESET synchronous_commit").await?;
    Postgres::connect(lax).await?;
    Ok(())
}
