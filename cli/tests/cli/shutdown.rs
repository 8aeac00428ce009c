//! SIGTERM and SIGINT alike, once and twice, in a real process: this very test binary, started again.

use std::time::{Duration, Instant};

use lease_testbed::{Process, Signal};

const LIMIT: Duration = Duration::from_secs(60);

/// The child says when it listens and when it was told to stop, and then hangs.
#[tokio::test]
#[ignore = "started by the other tests as a process of its own"]
async fn child_that_hangs_after_the_first_signal() {
    let token = lease_worker_common::shutdown::token().expect("signals");
    println!("listening");
    token.cancelled().await;
    println!("told to stop");
    std::future::pending::<()>().await;
}

fn child() -> Process {
    let itself = std::env::current_exe().expect("a path");
    let args = ["--exact", "shutdown::child_that_hangs_after_the_first_signal", "--ignored", "--nocapture"];
    Process::command(itself).expect("a program").args(args).spawn().expect("it starts")
}

#[tokio::test]
async fn the_first_signal_asks_and_the_second_ends_the_process() {
    for (first, second, code) in
        [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::INT, 130), (Signal::INT, Signal::TERM, 143)]
    {
        let child = child();
        child.wait_for_line("listening", LIMIT).await.expect("it listens");
        child.signal(first).expect("sent");
        child.wait_for_line("told to stop", LIMIT).await.expect("it is told");
        assert_eq!(child.exit_status(), None, "the first signal only asks");
        let told = Instant::now();
        let status = child.insist(second, LIMIT).await.expect("it ends");
        assert_eq!(status.code(), Some(code), "{first:?} {second:?}");
        // As the child counts, which was told a little earlier.
        assert!(told.elapsed() > Duration::from_millis(800), "signals of one moment are one request");
    }
}
