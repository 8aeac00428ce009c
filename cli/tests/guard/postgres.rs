//! The same promises with the lease in PostgreSQL: what differs is the store, its outages, and how a release is heard.

use std::time::{Duration, Instant};

use lease_testbed::{Direction, Flow, Postgres, PostgresOptions, Proxy, Signal, field, wait_until};
use sqlx::PgPool;
use tokio::sync::OnceCell;

use crate::common::{LIMIT, Place, await_death, is_alive};
use crate::family::{FAMILY, SUCCESSOR, assert_beats_in_order, deaf_family, family};

/// One server for all of these tests, and a database for each.
async fn server() -> &'static Postgres {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    SERVER.get_or_init(async || Postgres::start(PostgresOptions::default()).await.unwrap()).await
}

async fn database(name: &str) -> String {
    server().await.create_database(name).await.unwrap()
}

/// The epochs that commands have written into `log`, one a line.
fn epochs(place: &Place) -> Vec<u64> {
    place.lines("log").iter().map(|line| line.parse().unwrap()).collect()
}

/// With a lease that is free at once.
async fn installed(place: Place) -> Place {
    let init = place.leasehold(&["init", "--new"]);
    assert_eq!(init.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", init.lines());
    place
}

#[tokio::test]
async fn a_lease_that_is_created_with_a_start_is_waited_out_since_the_server_may_have_lost_it() {
    let place = Place::on_postgres(&database("lost").await);
    let (ttl, began) = (Duration::from_secs(2), Instant::now());
    let guard = place.guard(ttl, &[], "echo $LEASEHOLD_EPOCH >>log");
    guard.wait_for_line("created the lease, closed", LIMIT).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
    assert!(place.lines("log").len() == 1 && began.elapsed() >= ttl, "{:?}", began.elapsed());
}

#[tokio::test]
async fn runs_the_command_in_a_term_and_releases_at_once_when_it_has_ended() {
    let place = installed(Place::on_postgres(&database("runs").await)).await;
    let ttl = Duration::from_secs(60);
    for _ in 0..2 {
        let began = Instant::now();
        let guard = place.guard(ttl, &[], r#"echo "$LEASEHOLD_EPOCH" >> log; exit 7"#);
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(7), "{:?}", guard.lines());
        assert!(began.elapsed() < ttl / 2, "the lease of the one before was waited out");
    }
    let epochs = epochs(&place);
    assert!(epochs.len() == 2 && epochs[0] < epochs[1], "{epochs:?}");
}

#[tokio::test]
async fn a_killed_guards_command_dies_before_the_deadline_and_the_successor_comes_after() {
    let place = installed(Place::on_postgres(&database("killed").await)).await;
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &["--stop-budget", "1s"], &deaf_family());
    let family = family(&place, &guard, 1).await;
    let second = place.guard(ttl, &[], SUCCESSOR);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    let killed = Instant::now();
    guard.kill().await.unwrap();
    await_death("a deaf family", &family).await;
    assert!(killed.elapsed() < ttl, "the last renewal was sent before the guard was killed");
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0), "9: one of the family was still there");
    assert_beats_in_order(&place);
}

/// Told to stop 3.2 s before its deadline, the command is killed 0.8 s before it, and the guard gives the proof of its
/// death up at the deadline.
const EARLY: [&str; 8] =
    ["--renew-interval", "600ms", "--stop-grace", "3200ms", "--stop-budget", "3200ms", "--log", "info"];

fn with<'a>(lines: &'a [String], text: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.contains(text)).collect()
}

/// A way in which a store stops answering. Returns the guard's log.
async fn cut_off(database_name: &str, cut: impl AsyncFn(&Proxy)) -> Vec<String> {
    let url = database(database_name).await;
    let proxy = Proxy::postgres(server().await.addr()).unwrap();
    let place = installed(Place::on_postgres(&proxy.url(&url).unwrap())).await;
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &EARLY, &deaf_family());
    let first = family(&place, &guard, 1).await;
    let began = Instant::now();
    cut(&proxy).await;
    await_death("the family of a guard that is cut off", &first).await;
    assert!(began.elapsed() < ttl, "the last acknowledged renewal was sent before the cut");
    assert_eq!(guard.exit_status(), None, "it campaigns again");
    proxy.heal();
    proxy.refuse(false).await.unwrap();
    let second = family(&place, &guard, 2).await;
    assert!(second.iter().all(|pid| is_alive(*pid)));
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
    await_death("the second family", &second).await;
    let lines = guard.lines();
    for ending in ["asking the command to end", "stopping work"] {
        let told = with(&lines, ending);
        assert!(!told.is_empty() && told.iter().all(|line| line.contains(" WARN ")), "{lines:#?}");
    }
    lines
}

#[tokio::test]
async fn cut_off_from_the_server_it_ends_the_command_before_the_deadline_and_starts_it_anew_afterwards() {
    let lines = cut_off("refused", async |proxy| {
        proxy.refuse(true).await.unwrap();
        proxy.cut().await;
    })
    .await;
    // What goes on is told now and then, and its end.
    let back = with(&lines, "lease store works again");
    let failures =
        back.iter().filter_map(|line| field(line, "failures").ok()?.parse::<usize>().ok()).sum::<usize>();
    let told = with(&lines, "lease store failed; trying again").len();
    assert!(told > 0 && failures >= told + 3, "{told} of {failures}: {lines:#?}");
}

/// Whoever would lead reads between its writes, and each read works: that is no end of the failure.
#[tokio::test]
async fn a_store_that_answers_reads_and_refuses_writes_fills_no_log() {
    let url = database("refusing").await;
    let place = installed(Place::on_postgres(&url)).await;
    let first = place.guard(LIMIT, &[], "until [ -e leave ]; do sleep 0.01; done");
    first.wait_for_line("command started", LIMIT).await.unwrap();
    let second = place.guard(LIMIT, &["--retry-interval", "50ms", "--log", "info"], "true");
    second.wait_for_line("standing by", LIMIT).await.unwrap();

    let pool = PgPool::connect(&url).await.unwrap();
    let refuse = "CREATE SEQUENCE tries;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM nextval('public.tries');
            RAISE EXCEPTION 'not now' USING ERRCODE = '23514';
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON coordination_leases FOR EACH ROW
            WHEN (OLD.grant_id IS NULL) EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(&pool).await.unwrap();
    place.write("leave", "");
    wait_until("it has tried often", LIMIT, async || {
        let tries = sqlx::query_scalar::<_, i64>("SELECT last_value FROM tries").fetch_one(&pool).await;
        tries.is_ok_and(|tries| tries >= 30)
    })
    .await
    .unwrap();
    sqlx::raw_sql("DROP TRIGGER refuse ON coordination_leases").execute(&pool).await.unwrap();
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", second.lines());
    let lines = second.lines();
    let told = with(&lines, "not now");
    assert!(told.iter().all(|line| line.contains("operation=\"write\"")), "{lines:#?}");
    let back = with(&lines, "lease store works again");
    let failures =
        back.iter().map(|line| field(line, "failures").unwrap().parse::<usize>().unwrap()).sum::<usize>();
    assert!(failures >= 30, "{failures}: {lines:#?}");
    assert!((1..=failures / 3).contains(&told.len()), "{} lines about {failures}: {lines:#?}", told.len());
}

#[tokio::test]
async fn when_the_server_only_falls_silent_it_ends_the_command_before_the_deadline_too() {
    cut_off("silent", async |proxy| proxy.drop_all()).await;
}

#[tokio::test]
async fn renewals_that_arrive_but_are_never_answered_save_nobody() {
    cut_off("unanswered", async |proxy| proxy.set_flow(Direction::ToClient, Flow::Drop)).await;
}

#[tokio::test]
async fn told_to_stop_it_hands_over_to_the_second_guard_long_before_the_ttl() {
    let place = installed(Place::on_postgres(&database("handed_over").await)).await;
    let ttl = Duration::from_secs(60);
    let first = place.guard(ttl, &[], FAMILY);
    family(&place, &first, 1).await;
    let second = place.guard(ttl, &[], FAMILY);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    let began = Instant::now();
    first.signal(Signal::TERM).unwrap();
    assert!(first.wait(LIMIT).await.unwrap().code().is_some());
    let successors = family(&place, &second, 2).await;
    assert!(began.elapsed() < ttl / 2, "it waited for the lease to run out: {:?}", began.elapsed());
    assert_beats_in_order(&place);
    second.kill().await.unwrap();
    await_death("the second family", &successors).await;
}
