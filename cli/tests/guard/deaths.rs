//! Guard, keeper and store die, stop or fall silent: the command ends before the deadline, always (G-1, G-3).

use std::str::FromStr;
use std::time::{Duration, Instant};

use lease_testbed::Signal;
use rustix::process::{Pid, Resource, Rlimit, kill_process, prlimit};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::common::{
    LIMIT, Place, await_death, in_each_isolation, is_alive, keeper_of, runs, send, until, watchdog_of,
};
use crate::family::{FAMILY, SUCCESSOR, assert_beats_in_order, deaf_family, family};

/// At a ttl of 6 s: SIGKILL comes half a second before the deadline, the most that there is.
const EARLY: [&str; 4] = ["--renew-interval", "1s", "--stop-grace", "2s"];

in_each_isolation!(
    a_killed_guards_descendants_die_soon,
    a_killed_guards_deaf_descendants_die_before_the_deadline_and_the_successor_comes_after,
    a_stopped_guards_descendants_die_by_the_deadline_and_the_successor_comes_after,
    a_killed_keeper_is_replaced_by_its_guard_which_ends_and_starts_the_command_anew,
    a_stopped_keeper_is_woken_by_its_guard,
    a_killed_watchdog_takes_all_with_it_and_the_guard_starts_anew,
    a_stopped_watchdog_is_woken_by_its_guard,
    a_keeper_that_hangs_does_not_save_the_command_from_its_deadline,
    in_a_store_outage_a_deaf_command_is_killed_before_the_deadline_and_started_anew_afterwards,
);

async fn a_killed_guards_descendants_die_soon(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(15);
    let guard = place.guard(ttl, &[], FAMILY);
    let family = family(&place, &guard, 1).await;
    let keeper = keeper_of(&guard);
    let killed = Instant::now();
    guard.kill().await.unwrap();
    await_death("the family of a killed guard", &family).await;
    println!("SIGKILL of the guard to its whole family's death: {:?}, of a ttl of 15 s", killed.elapsed());
    // By the deadline alone it would come 9 s later or more.
    assert!(killed.elapsed() < ttl / 2, "SIGTERM at once, and SIGKILL a stop grace later");
    await_death("the keeper", &[keeper]).await;
}

async fn a_killed_guards_deaf_descendants_die_before_the_deadline_and_the_successor_comes_after(
    isolate: &str,
) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &[], &deaf_family());
    let family = family(&place, &guard, 1).await;
    let second = place.guard(ttl, &[], SUCCESSOR);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    let killed = Instant::now();
    guard.kill().await.unwrap();
    await_death("a deaf family", &family).await;
    println!("SIGKILL of the guard to its deaf family's death: {:?}, of a ttl of 6 s", killed.elapsed());
    assert!(killed.elapsed() < ttl, "the last renewal was sent before the guard was killed");
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0), "9: one of the family was still there");
    assert_beats_in_order(&place);
}

async fn a_stopped_guards_descendants_die_by_the_deadline_and_the_successor_comes_after(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &EARLY, &deaf_family());
    let family = family(&place, &guard, 1).await;
    let second = place.guard(ttl, &[], SUCCESSOR);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    guard.pause().await.unwrap();
    let stopped = Instant::now();
    await_death("the family of a stopped guard", &family).await;
    println!("SIGSTOP of the guard to its deaf family's death: {:?}, of a ttl of 6 s", stopped.elapsed());
    assert!(stopped.elapsed() < ttl, "the last renewal was sent before the guard stopped");
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0), "9: one of the family was still there");
    // Woken, it sees that its term is over, and campaigns again.
    guard.resume().unwrap();
    let anew = crate::family::family(&place, &guard, 2).await;
    assert!(anew.iter().all(|pid| is_alive(*pid)));
    assert_beats_in_order(&place);
    guard.signal(Signal::INT).unwrap();
    guard.signal(Signal::TERM).unwrap();
    assert!(guard.wait(LIMIT).await.unwrap().code().is_some());
}

async fn a_killed_keeper_is_replaced_by_its_guard_which_ends_and_starts_the_command_anew(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(60);
    let guard = place.guard(ttl, &[], &deaf_family());
    let first = family(&place, &guard, 1).await;
    let killed = Instant::now();
    send(keeper_of(&guard), Signal::KILL);
    await_death("the family of a killed keeper", &first).await;
    println!("SIGKILL of the keeper to its whole family's death: {:?}, of a ttl of 60 s", killed.elapsed());
    let second = family(&place, &guard, 2).await;
    println!("SIGKILL of the keeper to the command's new start: {:?}", killed.elapsed());
    assert!(killed.elapsed() < ttl / 2, "proven dead, so released, not waited out");
    assert!(first.iter().all(|pid| !second.contains(pid)));
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
    await_death("the second family", &second).await;
}

async fn a_stopped_keeper_is_woken_by_its_guard(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(Duration::from_secs(15), &[], FAMILY);
    let family = family(&place, &guard, 1).await;
    let keeper = keeper_of(&guard);
    send(keeper, Signal::STOP);
    // Not before it has been stopped: killed between the two, its guard could wake it no more.
    until("the keeper runs again", || keeper_of(&guard) == keeper && runs(keeper)).await;
    guard.kill().await.unwrap();
    await_death("the family", &family).await;
}

async fn a_killed_watchdog_takes_all_with_it_and_the_guard_starts_anew(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(60);
    let guard = place.guard(ttl, &[], &deaf_family());
    let first = family(&place, &guard, 1).await;
    let keeper = keeper_of(&guard);
    let killed = Instant::now();
    send(watchdog_of(&guard), Signal::KILL);
    await_death("keeper and family of a killed watchdog", &[&first[..], &[keeper]].concat()).await;
    let second = family(&place, &guard, 2).await;
    assert!(killed.elapsed() < ttl / 2, "proven dead, so released, not waited out");
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
    await_death("the second family", &second).await;
}

async fn a_stopped_watchdog_is_woken_by_its_guard(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(Duration::from_secs(15), &[], FAMILY);
    family(&place, &guard, 1).await;
    let watchdog = watchdog_of(&guard);
    send(watchdog, Signal::STOP);
    until("the watchdog runs again", || watchdog_of(&guard) == watchdog && runs(watchdog)).await;
    guard.kill().await.unwrap();
}

async fn a_keeper_that_hangs_does_not_save_the_command_from_its_deadline(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &EARLY, &deaf_family());
    let family = family(&place, &guard, 1).await;
    let keeper = keeper_of(&guard);
    let lock = write_lock(&place).await;
    let locked = Instant::now();
    // It is woken each time; so it is stopped again, faster than it can act.
    while family.iter().any(|pid| is_alive(*pid)) && locked.elapsed() < LIMIT {
        let _ = kill_process(Pid::from_raw(keeper as i32).unwrap(), Signal::STOP);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!(
        "store outage with a hanging keeper to the command's death: {:?}, of a ttl of 6 s",
        locked.elapsed()
    );
    assert!(locked.elapsed() < ttl);
    drop(lock);
    guard.kill().await.unwrap();
}

async fn in_a_store_outage_a_deaf_command_is_killed_before_the_deadline_and_started_anew_afterwards(
    isolate: &str,
) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(6);
    let guard = place.guard(ttl, &EARLY, &format!("trap 'echo asked >> asked' TERM; {FAMILY}"));
    let first = family(&place, &guard, 1).await;
    let lock = write_lock(&place).await;
    let locked = Instant::now();
    place.await_lines("asked", 1).await;
    assert!(is_alive(first[0]) || locked.elapsed() < ttl);
    await_death("the command", &first).await;
    println!("store outage to the command's death: {:?}, of a ttl of 6 s", locked.elapsed());
    assert!(locked.elapsed() < ttl, "the last renewal was sent before the outage");
    drop(lock);
    guard.wait_for_line("epoch=2", LIMIT).await.unwrap();
    let second = family(&place, &guard, 2).await;
    assert_eq!(place.lines("asked").len(), 1, "asked once, not twice");
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
    await_death("the second family", &second).await;
}

in_each_isolation!(a_term_that_begins_too_late_starts_nothing_and_the_guard_campaigns_on);

async fn a_term_that_begins_too_late_starts_nothing_and_the_guard_campaigns_on(isolate: &str) {
    let place = Place::new(isolate);
    let init = place.leasehold(&["init", "--new"]);
    assert_eq!(init.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", init.lines());
    // The acquisition waits for the lock, and of its term less than the grace is left.
    let lock = write_lock(&place).await;
    let late = ["--renew-interval", "200ms", "--retry-interval", "200ms", "--stop-grace", "5s"];
    let run = ["run", "--ttl", "6s", "--isolate", isolate];
    let command = ["--", "sh", "-c", "echo $LEASEHOLD_EPOCH >> log"];
    let guard = place.command(&[&run[..], &late, &command].concat());
    let guard = guard.env("SPENDGUARD_LEADER_SQLITE_BUSY_TIMEOUT_MS", "5000").spawn().unwrap();
    guard.wait_for_line("isolate=", LIMIT).await.unwrap();
    // A second after it was sent, which nobody tells; on a busy machine the file is opened late.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    drop(lock);
    guard.wait_for_line("nothing was started", LIMIT).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
    assert_eq!(place.lines("log"), ["2"], "not in its first term: {:?}", guard.lines());
}

in_each_isolation!(a_keeper_that_is_killed_as_its_term_begins_is_replaced);

async fn a_keeper_that_is_killed_as_its_term_begins_is_replaced(isolate: &str) {
    let place = Place::new(isolate);
    let init = place.leasehold(&["init", "--new"]);
    assert_eq!(init.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", init.lines());
    let lock = write_lock(&place).await;
    let guard = place.guard(LIMIT, &[], "exit 3");
    guard.wait_for_line("isolate=", LIMIT).await.unwrap();
    let (watchdog, keeper) = (watchdog_of(&guard), keeper_of(&guard));
    // Woken each time, it is stopped again, faster than it can start the command.
    let leads = tokio::time::timeout(LIMIT, guard.wait_for_line("leading", LIMIT));
    let stop = async {
        loop {
            for pid in [watchdog, keeper] {
                let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::STOP);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    drop(lock);
    tokio::select! {
        led = leads => drop(led.unwrap().unwrap()),
        () = stop => {}
    }
    // Too late on a busy machine: then the command has ended by itself.
    let _ = kill_process(Pid::from_raw(watchdog as i32).unwrap(), Signal::KILL);
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(3), "{:?}", guard.lines());
}

in_each_isolation!(a_keeper_that_fails_takes_its_command_with_it_and_the_guard_says_why_and_starts_anew);

async fn a_keeper_that_fails_takes_its_command_with_it_and_the_guard_says_why_and_starts_anew(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(60);
    let guard = place.guard(ttl, &[], &deaf_family());
    let first = family(&place, &guard, 1).await;
    // It may wait for no more than one descriptor now, and needs three.
    let one = Rlimit { current: Some(1), maximum: Some(1) };
    let failed = Instant::now();
    prlimit(Pid::from_raw(keeper_of(&guard) as i32), Resource::Nofile, one).unwrap();
    guard.signal(Signal::WINCH).unwrap();
    await_death("the family of a keeper that failed", &first).await;
    family(&place, &guard, 2).await;
    assert!(failed.elapsed() < ttl / 2, "proven dead, so released, not waited out");
    let told = |line: &String| line.contains("hold: the keeper failed") && line.contains("error=");
    assert!(guard.lines().iter().any(told), "{:?}", guard.lines());
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
}

/// Until it is dropped nobody writes to the lease file: no renewal is acknowledged any more.
async fn write_lock(place: &Place) -> sqlx::SqliteConnection {
    let url = format!("sqlite://{}", place.path("leases.db").display());
    let options = SqliteConnectOptions::from_str(&url).unwrap().busy_timeout(LIMIT);
    let mut connection = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}
