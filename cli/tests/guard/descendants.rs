//! Descendants: they hold the lease as the command does, and they are found wherever they hide (G-2).

use std::time::{Duration, Instant};

use lease_testbed::Signal;

use crate::common::{
    LIMIT, Place, STOP_BUDGET, anything_lives, await_death, await_killed, is_alive, outside, pid,
};

/// Nothing here waits for it: what takes half of it was waited out.
const TTL: Duration = Duration::from_secs(60);

/// Forks twice and calls setsid twice, as daemons do; then runs what follows. Deaf to SIGTERM, SIGINT and SIGHUP.
const DEAF_DAEMON: &str = r#"(setsid sh -c '(setsid sh -c "
    trap : TERM INT HUP
    echo \$\$ > daemon
    while :; do sleep 0.01; done
" &)' </dev/null >/dev/null 2>&1 &)
until [ -s daemon ]; do sleep 0.01; done
"#;

crate::common::in_each_isolation!(
    descendants_keep_the_lease_until_they_are_dead,
    the_lease_is_released_at_once_when_the_last_descendant_has_ended,
    a_double_forked_daemon_is_found_and_killed,
    a_family_that_replaces_its_dead_is_ended,
    a_stopped_command_is_ended_too,
);

async fn descendants_keep_the_lease_until_they_are_dead(isolate: &str) {
    let place = Place::new(isolate);
    let first = place.guard(
        TTL,
        &[],
        r#"(setsid sh -c "
               echo \$\$ > daemon
               until [ -e go ]; do sleep 0.01; done
               echo daemon ends >> log
           " </dev/null >/dev/null 2>&1 &)
           until [ -s daemon ]; do sleep 0.01; done
           echo command ends >> log
           exit 4"#,
    );
    place.await_lines("log", 1).await;
    let second = place.guard(TTL, &[], "echo second starts >> log");
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    first.wait_for_line("the lease is kept", LIMIT).await.unwrap();
    assert!(is_alive(outside(&first, pid(&place.read("daemon")))) && first.exit_status().is_none());
    place.write("go", "");
    assert_eq!(first.wait(LIMIT).await.unwrap().code(), Some(4), "the command's own code");
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0));
    assert_eq!(place.lines("log"), ["command ends", "daemon ends", "second starts"]);
}

async fn the_lease_is_released_at_once_when_the_last_descendant_has_ended(isolate: &str) {
    let place = Place::new(isolate);
    const GUARDS: usize = 12;
    // Each ends by a daemon's last breath. A ttl of 60 s would show in any hand-over that waits.
    let script = r#"date +%s%N >> starts
        (setsid sh -c 'sleep 0.05; date +%s%N >> ends' </dev/null >/dev/null 2>&1 &)"#;
    let flags = ["--retry-interval", "1s"];
    let guards: Vec<_> = (0..GUARDS).map(|_| place.guard(TTL, &flags, script)).collect();
    for guard in &guards {
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0));
    }
    let times = |name| place.lines(name).iter().map(|line| line.parse::<i64>().unwrap()).collect::<Vec<_>>();
    let (starts, ends) = (times("starts"), times("ends"));
    assert_eq!((starts.len(), ends.len()), (GUARDS, GUARDS));
    let mut gaps: Vec<i64> =
        starts[1..].iter().zip(&ends).map(|(start, end)| (start - end) / 1_000_000).collect();
    assert!(gaps.iter().all(|gap| *gap >= 0), "a successor started too early: {gaps:?} ms");
    gaps.sort_unstable();
    println!(
        "last descendant's end to the successor's start: min {} ms, median {} ms, max {} ms ({} hand-overs)",
        gaps[0],
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1],
        gaps.len()
    );
    assert!(gaps[gaps.len() / 2] < TTL.as_millis() as i64 / 2, "far below the ttl of 60 s: {gaps:?} ms");
}

async fn a_double_forked_daemon_is_found_and_killed(isolate: &str) {
    let place = Place::new(isolate);
    let script = format!("{DEAF_DAEMON} echo ready >> log; exec sleep 1000");
    let guard = place.guard(TTL, &STOP_BUDGET, &script);
    place.await_lines("log", 1).await;
    let daemon = outside(&guard, pid(&place.read("daemon")));
    let asked = Instant::now();
    guard.signal(Signal::TERM).unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(143), "the command heeds SIGTERM");
    assert!(!is_alive(daemon), "the guard ended before the daemon did");
    println!("SIGTERM to the end of a deaf daemon: {:?}, of a stop budget of 6 s", asked.elapsed());
    // Proven dead, so released: the next one leads long before the ttl is over.
    let next = place.guard(TTL, &[], "exit 0");
    assert_eq!(next.wait(TTL / 2).await.unwrap().code(), Some(0));
}

async fn a_family_that_replaces_its_dead_is_ended(isolate: &str) {
    let place = Place::new(isolate);
    // Two deaf parents, each of which starts a new child as soon as one has died.
    let script = r#"exec 9>>alive; flock -s 9; trap : TERM
        nurse() { trap : TERM; while :; do sh -c 'echo $$ >> pids; trap "" TERM; sleep 0.05'; done; }
        nurse & nurse & nurse & wait; wait; wait; while :; do sleep 0.1; done"#;
    let guard = place.guard(TTL, &STOP_BUDGET, script);
    place.await_lines("pids", 20).await;
    guard.signal(Signal::TERM).unwrap();
    await_killed(&guard).await;
    assert!(!anything_lives(&place));
}

async fn a_stopped_command_is_ended_too(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(TTL, &[], "echo $$ >> log; kill -STOP $$; echo woken >> log");
    let command = outside(&guard, pid(&place.await_lines("log", 1).await[0]));
    crate::common::until("the command stops", || crate::common::state(command).as_deref() == Some("T")).await;
    guard.signal(Signal::TERM).unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(143));
    await_death("the command", &[command]).await;
}
