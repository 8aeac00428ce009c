//! Texts that others wrote into a store: a terminal shows them, and obeys none of them.

use std::time::Duration;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Change, PutOutcome, admin, printable};
use lease_testbed::Process;

use crate::common::Leasehold;
use crate::store::{LIMIT, Store, name};

const LEASE: &str = "outbox-forwarder";

/// Clears the screen, colours it, turns the writing round, and begins a line of its own, by C0, C1 and Unicode.
const EVIL: &str = "\u{1b}[2Jpod\u{9b}31m\u{202e}-1\u{7f}\nforged: held by nobody\u{2028}\u{7}";

#[track_caller]
fn shows_no_more_than_text<'a>(lines: impl IntoIterator<Item = &'a str>, about: &str) {
    for line in lines {
        assert_eq!(printable(line), line, "{about}");
        assert!(!line.trim_start().starts_with("forged"), "{about}: {line}");
    }
}

/// A store whose holder, region and note are evil, and so is whoever asked it to step down.
async fn evil() -> Store {
    let store = Store::sqlite().await;
    store.run(&["init", LEASE, "--new"]).await.ok();
    let backend = store.backend().await;
    let seen = backend.observe(&name()).await.unwrap();
    let ttl = Duration::from_secs(600);
    let who = Candidate {
        holder: EVIL.into(),
        region: EVIL.into(),
        ttl,
        max_ttl: ttl,
        preemptible: false,
        work: None,
    };
    let fresh = Fresh::random();
    let mut record = writes::acquire(&seen, seen.record.as_ref().unwrap(), &who, fresh.grant, &fresh);
    record.note = EVIL.into();
    let put = backend.put_if(&name(), &seen, &record, Change::Acquire).await.unwrap();
    assert!(matches!(put, PutOutcome::Written(_)));
    admin::request_step_down(&*backend, &name(), EVIL).await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_passes_a_stores_control_characters_on() {
    let store = evil().await;
    let mut watched = store.start(&["watch"]);
    watched.wait_for_line("asked", LIMIT).await.unwrap();
    for args in [
        &["status"][..],
        &["status", LEASE],
        &["status", "--json"],
        &["history", LEASE],
        &["history", LEASE, "--json"],
        &["step-down", LEASE, "--wait", "0s"],
        &["step-down", LEASE, "--wait", "10ms"],
        &["revoke", LEASE, "--json"],
        &["fence", "raise", LEASE, "--above", "7"],
    ] {
        let ran = store.run(args).await;
        assert!(
            ran.out.contains("pod") || ran.err.contains("pod"),
            "{args:?} shows it: {}{}",
            ran.out,
            ran.err
        );
        shows_no_more_than_text(ran.out.lines().chain(ran.err.lines()), &format!("{args:?}"));
        if args.contains(&"status") && args.contains(&"--json") {
            assert_eq!(ran.json()[0]["record"]["holder"], EVIL, "JSON means the same");
        }
    }
    watched.wait_for_line("ended the term", LIMIT).await.unwrap();
    end(&mut watched);
    shows_no_more_than_text(watched.lines().iter().map(String::as_str), "watch");
}

fn end(process: &mut Process) {
    process.signal(lease_testbed::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_log_line_begins_or_hides_another() {
    for format in ["human", "json"] {
        let store = Store::sqlite().await;
        let run = [
            "run",
            "--init",
            "--lease",
            LEASE,
            "--log",
            "info",
            "--log-format",
            format,
            "--",
            "sleep",
            "1000",
        ];
        let mut guard = store.start(&run);
        guard.wait_for_line("command started", LIMIT).await.unwrap();
        admin::request_step_down(&*store.backend().await, &name(), EVIL).await.unwrap();
        guard.wait_for_line("stopping work", LIMIT).await.unwrap();
        guard.wait_for_line("asking the command to end", LIMIT).await.unwrap();
        end(&mut guard);
        assert!(guard.lines().iter().any(|line| line.contains("held by nobody")), "{:#?}", guard.lines());
        shows_no_more_than_text(guard.lines().iter().map(String::as_str), format);
    }
}

#[test]
fn names_and_notes_that_would_need_escaping_are_refused() {
    let leasehold = Leasehold::sqlite();
    leasehold.run(&["init", LEASE, "--new"]).ok();
    for text in ["two\nlines", "\u{1b}[2J", "\u{202e}", "\u{9b}", "\u{2028}", "\u{200b}"] {
        leasehold.run(&["--region", text, "status"]).refused(&["--region", "control"]);
        leasehold.run(&["--workload-id", text, "status"]).refused(&["--workload-id", "hidden characters"]);
        for command in [
            &["revoke", LEASE][..],
            &["restored"],
            &["fence", "raise", LEASE, "--above", "1"],
            &["fence", "lower", LEASE, "--resource", "r"],
        ] {
            let ran = leasehold.run(&[command, &["--note", text]].concat());
            assert_eq!(ran.code, 2, "{}", ran.err);
            assert!(ran.err.contains("--note") && ran.err.contains("hidden characters"), "{}", ran.err);
        }
    }
}
