//! The runbook's commands, in its order, against a store with a live holder.

use lease_testbed::{Process, Signal};
use std::time::Duration;

use crate::common::Leasehold;

const RUNBOOK: &str = include_str!("../../../docs/operating.md");
const LIMIT: Duration = Duration::from_secs(60);

/// The lines of its `console` blocks, as words.
fn commands() -> Vec<Vec<String>> {
    let blocks = RUNBOOK.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ leasehold "));
    let words = |line: &str| {
        let quoted = line.split('\'').enumerate().flat_map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        });
        quoted.collect()
    };
    lines.map(words).collect()
}

#[tokio::test]
async fn every_command_of_the_runbook_does_what_it_is_there_for() {
    let store = Leasehold::sqlite();
    let made = store.run(&["init", "--new", "outbox-forwarder"]);
    assert_eq!(made.code, 0, "{}", made.err);
    let start = |args: &[String]| {
        let process = Process::command(Leasehold::binary()).unwrap().env_clear();
        let process = store.environment().fold(process, |process, (name, value)| process.env(name, value));
        process.args(args).spawn().unwrap()
    };
    let held =
        ["run", "--lease", "outbox-forwarder", "--ttl", "2s", "--", "sh", "-c", "echo held; sleep 600"];
    let holder = start(&held.map(str::to_owned));
    holder.wait_for_line("held", LIMIT).await.unwrap();
    let commands = commands();
    assert!(commands.len() >= 9, "{commands:?}");
    for command in commands {
        if command[0] == "watch" {
            let watching = start(&command);
            watching.wait_for_line("outbox-forwarder", LIMIT).await.unwrap();
            watching.signal(Signal::INT).unwrap();
            assert_eq!(watching.wait(LIMIT).await.unwrap().code(), Some(0), "{command:?}");
            continue;
        }
        let lines = holder.line_count();
        let ran = store.run(&command);
        assert_eq!(ran.code, 0, "{command:?}: {}{}", ran.out, ran.err);
        assert!(!ran.out.trim().is_empty(), "{command:?} says nothing");
        if ["step-down", "revoke", "fence"].contains(&command[0].as_str()) {
            // The next command finds a holder again.
            holder.wait_for_line_after(lines, "held", LIMIT).await.unwrap();
        }
    }
    holder.signal(Signal::TERM).unwrap();
    holder.wait(LIMIT).await.unwrap();
}
