//! Neither guard nor keeper waits for whoever reads its log, or ends because nobody does.

use std::io;
use std::process::Stdio;

use lease_testbed::{Process, Signal, closed_pipe, full_disk, full_pipe};

use crate::common::{LIMIT, Place, await_death, keeper_of, pid};

/// Its own words go nowhere: a shell says when a child of it was killed.
const COMMAND: &str = "exec 2>/dev/null; trap 'exit 7' TERM; echo $$ > pid; while :; do sleep 0.05; done";

/// A guard whose command runs, with its process id.
async fn unheard_guard(place: &Place, log: impl Into<Stdio>) -> (Process, u32) {
    let arguments =
        ["run", "--init", "--log", "trace", "--ttl", "6s", "--isolate", "none", "--", "sh", "-c", COMMAND];
    let guard = place.command(&arguments).stderr(log).spawn().unwrap();
    let command = pid(&place.await_lines("pid", 1).await[0]);
    (guard, command)
}

#[tokio::test]
async fn a_guard_whose_log_can_not_be_written_ends_its_command_when_asked() {
    let (_log, to_log) = full_pipe().unwrap();
    let logs: [io::Result<Stdio>; 3] =
        [Ok(to_log.into()), full_disk().map(Stdio::from), closed_pipe().map(Stdio::from)];
    for log in logs {
        let place = Place::new("none");
        let (guard, command) = unheard_guard(&place, log.unwrap()).await;
        guard.signal(Signal::TERM).unwrap();
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(7), "its command's own code");
        await_death("the command", &[command]).await;
        let status = place.leasehold(&["status", "job", "--json"]);
        assert!(status.wait(LIMIT).await.unwrap().success());
        assert!(status.lines().concat().contains("\"free\""), "released: {:?}", status.lines());
    }
}

#[tokio::test]
async fn a_keeper_whose_log_nobody_reads_ends_the_command_of_a_killed_guard_and_itself() {
    let place = Place::new("none");
    let (_log, to_log) = full_pipe().unwrap();
    let (guard, command) = unheard_guard(&place, to_log).await;
    let keeper = keeper_of(&guard);
    guard.kill().await.unwrap();
    await_death("the command, and then its keeper", &[command, keeper]).await;
}
