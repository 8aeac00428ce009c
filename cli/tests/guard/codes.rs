//! Exit codes, the environment, and what is refused.

use std::time::Duration;

use crate::common::{LIMIT, Place};

/// Nothing here waits for it: what takes half of it was waited out.
const TTL: Duration = Duration::from_secs(60);

crate::common::in_each_isolation!(
    the_command_is_told_its_lease_epoch_and_grant_and_each_run_has_a_greater_epoch,
    the_exit_code_is_the_commands,
    a_command_that_is_not_found_is_127_and_one_that_is_not_executable_126,
);

async fn the_command_is_told_its_lease_epoch_and_grant_and_each_run_has_a_greater_epoch(isolate: &str) {
    let place = Place::new(isolate);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let guard =
            place.guard(TTL, &[], "echo \"$LEASEHOLD_LEASE $LEASEHOLD_EPOCH $LEASEHOLD_GRANT\" >> log");
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0));
        let lines = place.lines("log");
        let fields: Vec<String> = lines.last().unwrap().split(' ').map(str::to_owned).collect();
        assert_eq!(fields.len(), 3, "{lines:?}");
        assert_eq!(fields[0], "job");
        assert!(fields[2].len() == 32 && fields[2].chars().all(|c| c.is_ascii_hexdigit()), "{lines:?}");
        seen.push((fields[1].parse::<u64>().unwrap(), fields[2].clone()));
    }
    assert!(seen.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 != two[1].1), "{seen:?}");
}

async fn the_exit_code_is_the_commands(isolate: &str) {
    let place = Place::new(isolate);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)] {
        let guard = place.guard(TTL, &[], script);
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(code), "{script}");
    }
}

async fn a_command_that_is_not_found_is_127_and_one_that_is_not_executable_126(isolate: &str) {
    let place = Place::new(isolate);
    place.write("plain", "#!/bin/sh\n");
    for (command, code) in [("no-such-program", 127), ("./plain", 126)] {
        let guard = place.leasehold(&["run", "--init", "--isolate", isolate, "--", command]);
        guard.wait_for_line("can't be started", LIMIT).await.unwrap();
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(code));
    }
    // Nothing ran, so the lease was released: the next one leads long before the ttl is over.
    let guard = place.guard(TTL, &[], "exit 3");
    assert_eq!(guard.wait(TTL / 2).await.unwrap().code(), Some(3));
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_starts() {
    let place = Place::new("auto");
    let cases: [(&[&str], &str); 7] = [
        (&["run", "--init", "--isolate", "jail", "--", "touch", "ran"], "--isolate"),
        (&["run", "--init", "--ttl", "banana", "--", "touch", "ran"], "--ttl"),
        (&["run", "--init", "--ttl", "400ms", "--", "touch", "ran"], "ttlMs of at least"),
        (&["run", "--init", "--stop-grace", "50ms", "--", "touch", "ran"], "--stop-grace"),
        (&["run", "--init", "--stop-budget", "1ms", "--", "touch", "ran"], "--stop-budget"),
        (&["run", "--init", "--mode", "disabled", "--", "touch", "ran"], "--mode"),
        (&["run", "--init"], "CMD"),
    ];
    for (arguments, named) in cases {
        let guard = place.leasehold(arguments);
        guard.wait_for_line(named, LIMIT).await.unwrap();
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(2), "{arguments:?}");
    }
    assert!(!place.path("ran").exists() && !place.path("leases.db").exists());
}

#[tokio::test]
async fn without_init_a_store_that_is_not_there_is_125() {
    let place = Place::new("auto");
    let guard = place.leasehold(&["run", "--", "touch", "ran"]);
    guard.wait_for_line("--init", LIMIT).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(125));
    assert!(!place.path("ran").exists() && !place.path("leases.db").exists());
}

#[tokio::test]
async fn a_store_that_refuses_is_125() {
    let place = Place::new("auto");
    place.write("leases.db", "");
    std::fs::hard_link(place.path("leases.db"), place.path("another-name.db")).unwrap();
    let guard = place.guard(TTL, &[], "touch ran");
    guard.wait_for_line("refuses", LIMIT).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(125));
    assert!(!place.path("ran").exists());
}
