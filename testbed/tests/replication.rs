//! Two real servers: the rows that a synchronous and an asynchronous standby keep, and the effects of a promotion.

use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, Proxy, StandbyOptions, WalArchive, wait_until};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_millis(500);

async fn primary() -> anyhow::Result<Postgres> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    postgres.psql("create table t (n int primary key)").await?;
    Ok(postgres)
}

async fn rows(postgres: &Postgres) -> anyhow::Result<String> {
    postgres.psql("select string_agg(n::text, ' ' order by n) from t").await
}

#[tokio::test]
async fn a_synchronous_standby_has_whatever_was_acknowledged() -> anyhow::Result<()> {
    let primary = primary().await?;
    let standby = primary.standby(StandbyOptions::synchronous("standby")).await?;
    assert_eq!(primary.system_identifier().await?, standby.system_identifier().await?);
    assert!(standby.psql("insert into t values (0)").await.is_err(), "a standby takes no writes");

    for n in 1..=20 {
        primary.psql(&format!("insert into t values ({n})")).await?;
    }
    primary.crash().await?;
    assert_eq!(standby.timeline().await.ok(), None);
    standby.promote().await?;
    assert_eq!(standby.timeline().await?, 2);
    let all: Vec<String> = (1..=20).map(|n: i32| n.to_string()).collect();
    assert_eq!(rows(&standby).await?, all.join(" "));
    // It is a primary that waits for nobody.
    timeout(LIMIT, standby.psql("insert into t values (21)")).await??;
    Ok(())
}

#[tokio::test]
async fn nothing_is_acknowledged_while_a_synchronous_standby_is_silent() -> anyhow::Result<()> {
    let primary = primary().await?;
    let standby = primary.standby(StandbyOptions::synchronous("standby")).await?;
    standby.pause().await?;
    let mut insert = Box::pin(primary.psql("insert into t values (1)"));
    assert!(timeout(SILENCE, &mut insert).await.is_err(), "acknowledged without its standby");
    standby.resume()?;
    timeout(LIMIT, insert).await??;

    standby.stop_fast().await?;
    let mut insert = Box::pin(primary.psql("insert into t values (2)"));
    assert!(timeout(SILENCE, &mut insert).await.is_err(), "acknowledged without its standby");
    primary.set("synchronous_standby_names", "").await?;
    timeout(LIMIT, insert).await??;
    Ok(())
}

#[tokio::test]
async fn an_asynchronous_standby_may_lack_what_was_acknowledged() -> anyhow::Result<()> {
    let primary = primary().await?;
    let replication = Proxy::tcp(primary.addr())?;
    let standby =
        primary.standby(StandbyOptions::asynchronous("standby").through(replication.addr())).await?;
    primary.psql("insert into t values (1)").await?;
    standby.catch_up_with(&primary).await?;
    assert_eq!(rows(&standby).await?, "1");

    replication.stall();
    primary.psql("insert into t values (2)").await?;
    standby.promote().await?;
    assert_eq!(rows(&standby).await?, "1", "the acknowledged row is lost");
    standby.psql("insert into t values (3)").await?;
    // Nobody told the old primary, which goes on alone.
    primary.psql("insert into t values (4)").await?;
    assert_eq!((rows(&primary).await?, rows(&standby).await?), ("1 2 4".into(), "1 3".into()));
    assert_eq!((primary.timeline().await?, standby.timeline().await?), (1, 2));
    Ok(())
}

#[tokio::test]
async fn a_stalled_replication_arrives_in_the_end() -> anyhow::Result<()> {
    let primary = primary().await?;
    let replication = Proxy::tcp(primary.addr())?;
    let standby = primary.standby(StandbyOptions::synchronous("standby").through(replication.addr())).await?;
    replication.stall();
    let mut insert = Box::pin(primary.psql("insert into t values (1)"));
    assert!(timeout(SILENCE, &mut insert).await.is_err(), "acknowledged without its standby");
    replication.heal();
    timeout(LIMIT, insert).await??;
    let replayed = async || rows(&standby).await.is_ok_and(|rows| rows == "1");
    wait_until("the row is replayed", LIMIT, replayed).await
}

#[tokio::test]
async fn two_promotions_share_a_timeline_unless_they_share_an_archive() -> anyhow::Result<()> {
    for (archive, expected) in [(None, [2, 2]), (Some(WalArchive::new()?), [2, 3])] {
        let mut options = PostgresOptions::default();
        if let Some(archive) = &archive {
            options = options.archive(archive);
        }
        let primary = Postgres::start(options).await?;
        let one = primary.standby(StandbyOptions::asynchronous("one")).await?;
        let two = primary.standby(StandbyOptions::asynchronous("two")).await?;
        primary.crash().await?;
        one.promote().await?;
        two.promote().await?;
        assert_eq!([one.timeline().await?, two.timeline().await?], expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_standby_comes_back_after_a_crash_and_a_second_one_may_be_synchronous_too() -> anyhow::Result<()> {
    let primary = primary().await?;
    let one = primary.standby(StandbyOptions::synchronous("one")).await?;
    let two = primary.standby(StandbyOptions::synchronous("two")).await?;
    assert_eq!(primary.psql("show synchronous_standby_names").await?, "FIRST 2 (\"one\", \"two\")");
    two.crash().await?;
    let mut insert = Box::pin(primary.psql("insert into t values (1)"));
    assert!(timeout(SILENCE, &mut insert).await.is_err(), "acknowledged by one of two");
    two.start_again().await?;
    timeout(LIMIT, insert).await??;
    for standby in [one, two] {
        standby.catch_up_with(&primary).await?;
        assert_eq!(rows(&standby).await?, "1");
    }
    Ok(())
}
