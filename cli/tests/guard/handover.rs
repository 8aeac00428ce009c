//! Operators' step-down and revoke; and `--once`.

use std::time::Duration;

use lease_testbed::Signal;

use crate::common::{LIMIT, Place};

const TTL: Duration = Duration::from_secs(15);
const SERVER: &str = r#"trap 'echo "$LEASEHOLD_EPOCH told" >> log; exit 0' TERM
    echo "$LEASEHOLD_EPOCH starts" >> log; while :; do sleep 0.01; done"#;

crate::common::in_each_isolation!(
    asked_to_step_down_it_hands_over_and_stands_by_for_the_next_time,
    once_means_one_term,
    revoked_it_ends_the_command_at_once_and_campaigns_again,
);

async fn asked_to_step_down_it_hands_over_and_stands_by_for_the_next_time(isolate: &str) {
    let place = Place::new(isolate);
    // It holds off for two of these: long enough for the other on a busy machine.
    let first = place.guard(TTL, &["--retry-interval", "5s"], SERVER);
    place.await_lines("log", 1).await;
    let second = place.guard(TTL, &[], SERVER);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    let asked = place.leasehold(&["step-down"]);
    assert_eq!(asked.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", asked.lines());
    place.await_lines("log", 3).await;
    assert_eq!(first.exit_status(), None, "it campaigns again");
    second.signal(Signal::TERM).unwrap();
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0));
    let log = place.await_lines("log", 5).await;
    let epochs: Vec<u64> = log.iter().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    let said: Vec<&str> = log.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(said, ["starts", "told", "starts", "told", "starts"]);
    assert!(
        epochs[0] == epochs[1] && epochs[1] < epochs[2] && epochs[2] == epochs[3] && epochs[3] < epochs[4]
    );
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.wait(LIMIT).await.unwrap().code(), Some(0));
}

async fn once_means_one_term(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(TTL, &["--once"], SERVER);
    place.await_lines("log", 1).await;
    let asked = place.leasehold(&["step-down"]);
    assert_eq!(asked.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", asked.lines());
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(125));
    assert_eq!(place.lines("log").len(), 2);
}

async fn revoked_it_ends_the_command_at_once_and_campaigns_again(isolate: &str) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(4);
    let guard = place.guard(ttl, &["--renew-interval", "400ms"], SERVER);
    place.await_lines("log", 1).await;
    let revoked = place.leasehold(&["revoke"]);
    assert_eq!(revoked.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", revoked.lines());
    let log = place.await_lines("log", 3).await;
    assert!(log[1].ends_with("told") && log[2].ends_with("starts"), "{log:?}");
    guard.signal(Signal::TERM).unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0));
}
