//! A server of our own starts, is administered, and is broken as the method's name says.

use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, PostgresServer, Process, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn starts_with_the_settings_that_were_asked_for() -> anyhow::Result<()> {
    let options = PostgresOptions::default().max_connections(30).setting("application_name", "it's us");
    let postgres = Postgres::start(options).await?;
    assert_eq!(postgres.psql("show fsync; show max_connections").await?, "on\n30");
    postgres.set("work_mem", "8MB").await?;
    assert_eq!(postgres.psql("show work_mem").await?, "8MB");
    assert!(postgres.socket_dir().join(format!(".s.PGSQL.{}", postgres.port())).exists());
    Ok(())
}

#[tokio::test]
async fn roles_and_databases_are_apart_and_need_their_password() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    postgres.create_role("o'brien", "it's + 100% \"secret\"").await?;
    postgres.create_database("one \"test\"").await?;
    let server = |password| postgres.url_for("one \"test\"", "o'brien", password);
    let named = PostgresServer::named(&server("it's + 100% \"secret\"")).await?;
    assert_eq!(named.psql("select current_user, current_database()").await?, "o'brien|one \"test\"");
    assert!(named.psql("create table public.t ()").await.is_err(), "a plain role has no rights in public");

    let refusal = format!("{:#}", PostgresServer::named(&server("wrong")).await.unwrap_err());
    assert!(refusal.contains("password authentication failed") && !refusal.contains("wrong"), "{refusal}");

    postgres.drop_database("one \"test\"").await?;
    assert!(named.psql("select 1").await.is_err());
    Ok(())
}

#[tokio::test]
async fn psql_reports_the_servers_message_and_runs_nothing_after_it() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let error = postgres.psql("create table a (); select nonsense; create table b ()").await.unwrap_err();
    assert!(format!("{error:#}").contains("column \"nonsense\" does not exist"), "{error:#}");
    assert_eq!(postgres.psql("select to_regclass('a') is null, to_regclass('b') is null").await?, "f|t");
    Ok(())
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_acknowledged_and_all_that_was_not() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    postgres.psql("create table t (n int primary key)").await?;
    for round in 0..3 {
        postgres.psql(&format!("insert into t values ({round})")).await?;
        let unfinished = format!("begin; insert into t values ({}); select pg_sleep(60)", 100 + round);
        let open = postgres.psql(&unfinished);
        let crash = async {
            let waiting = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
            let waits = async || postgres.psql(waiting).await.is_ok_and(|n| n == "1");
            wait_until("the transaction is open", LIMIT, waits).await?;
            postgres.crash().await
        };
        let (open, crash) = tokio::join!(open, crash);
        crash?;
        assert!(open.is_err(), "its connection was broken");
        assert!(!postgres.is_running());
        assert!(postgres.psql("select 1").await.is_err());
        postgres.start_again().await?;
        let log = postgres.logs()?;
        assert!(log.contains("database system was not properly shut down"), "{log}");
    }
    assert_eq!(postgres.psql("select array_agg(n order by n) from t").await?, "{0,1,2}");
    Ok(())
}

#[tokio::test]
async fn a_stop_is_orderly_and_the_port_stays_ours() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let port = postgres.port();
    postgres.restart().await?;
    assert_eq!(postgres.psql("show port").await?, port.to_string());
    postgres.stop_fast().await?;
    assert!(!postgres.logs()?.contains("not properly shut down"));
    assert!(
        postgres.stop_fast().await.is_err() && postgres.crash().await.is_err(),
        "there is nothing to stop"
    );
    assert!(std::net::TcpStream::connect(postgres.addr()).is_err(), "nobody listens");
    if cfg!(target_os = "linux") {
        let taken = tokio::net::TcpSocket::new_v4()?.bind(postgres.addr());
        assert!(taken.is_err(), "others can't have the port of a server that will come back");
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    postgres.psql("create table t (n int)").await?;
    postgres.pause().await?;
    let mut insert = Box::pin(postgres.psql("insert into t values (1)"));
    let silence = tokio::time::timeout(Duration::from_millis(300), &mut insert).await;
    assert!(silence.is_err(), "a stopped server answered");
    postgres.resume()?;
    insert.await?;
    assert_eq!(postgres.psql("select count(*) from t").await?, "1");
    postgres.pause().await?;
    postgres.crash().await?;
    postgres.start_again().await?;
    postgres.pause().await?; // and is dropped like this
    Ok(())
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_behind() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let (folder, addr) = (postgres.socket_dir().to_owned(), postgres.addr());
    drop(postgres);
    assert!(!folder.exists());
    assert!(std::net::TcpStream::connect(addr).is_err());
    Ok(())
}

#[tokio::test]
async fn servers_share_a_system_identifier_unless_they_ask_for_their_own() -> anyhow::Result<()> {
    let fresh = PostgresOptions::default().fresh_system_identifier();
    let (one, two) = tokio::try_join!(Postgres::start(fresh.clone()), Postgres::start(fresh))?;
    assert_ne!(one.system_identifier().await?, two.system_identifier().await?);
    Ok(())
}

#[tokio::test]
async fn processes_that_make_the_template_at_once_do_not_disturb_each_other() -> anyhow::Result<()> {
    let cache = std::env::temp_dir().join(format!("template-test-{}", std::process::id()));
    let start = || {
        // This very program, for another of its tests.
        let test = Process::command(std::env::current_exe()?)?.env("LEASEHOLD_CACHE", &cache);
        test.args(["--exact", "starts_with_the_settings_that_were_asked_for"]).spawn()
    };
    for at_once in [3, 1] {
        let processes: Vec<Process> = (0..at_once).map(|_| start()).collect::<anyhow::Result<_>>()?;
        for process in processes {
            let status = process.wait(Duration::from_secs(120)).await?;
            assert!(status.success(), "{:#?}", process.lines());
            process.wait_for_line("1 passed", LIMIT).await?;
        }
        let entries: Vec<_> = std::fs::read_dir(&cache)?.collect::<Result<_, _>>()?;
        assert_eq!(entries.len(), 1, "one template and nothing half made: {entries:?}");
    }
    std::fs::remove_dir_all(&cache)?;
    Ok(())
}

#[tokio::test]
async fn a_start_that_fails_shows_the_log() {
    let options = PostgresOptions::default().setting("shared_buffers", "a lot");
    let error = format!("{:#}", Postgres::start(options).await.unwrap_err());
    assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
}
