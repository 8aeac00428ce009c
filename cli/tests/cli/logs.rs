//! Commands whose output nobody reads, and panics that nobody hears.

use std::io::{BufRead, BufReader};

use lease_testbed::{Process, Signal, full_pipe, wait_until};

use crate::common::Leasehold;
use crate::store::LIMIT;

/// The number of the process's threads that wait until a pipe is read.
fn writers(process: &Process) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.id())).into_iter().flatten().flatten();
    let waits = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("wchan")).ok());
    waits.filter(|place| place.contains("pipe_write")).count()
}

#[tokio::test]
async fn a_watch_that_nobody_reads_ends_when_asked() {
    let cli = Leasehold::sqlite();
    cli.run(&["init", "--new", "nightly"]).ok();
    let (_output, to_output) = full_pipe().expect("a pipe");
    let (_log, to_log) = full_pipe().expect("a pipe");
    let args = ["watch", "--sqlite-path", &cli.path("leases.db")];
    let command = Process::command(Leasehold::binary()).expect("the binary").env_clear().args(args);
    let watch = command.stdout(to_output).stderr(to_log).spawn().expect("it starts");
    let stuck = || std::future::ready(writers(&watch) > 0);
    wait_until("it waits until its output is read", LIMIT, stuck).await.expect("in time");
    watch.signal(Signal::TERM).expect("sent");
    assert_eq!(watch.wait(LIMIT).await.expect("it ends").code(), Some(0));
}

/// Panics in one thread and goes on in another.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn child_that_panics() {
    lease_worker_common::stderr::report_panics();
    let panicked = std::thread::Builder::new().name("work".to_owned()).spawn(|| panic!("out of cheese"));
    panicked.expect("a thread").join().expect_err("it panics");
    println!("goes on");
    lease_worker_common::stderr::flush();
}

#[tokio::test]
async fn a_panic_that_nobody_reads_holds_nobody_up_and_else_it_is_read() {
    let itself = std::env::current_exe().expect("a path");
    let args = ["--exact", "logs::child_that_panics", "--ignored", "--nocapture"];
    let child = || Process::command(&itself).expect("a program").args(args);
    let (_log, to_log) = full_pipe().expect("a pipe");
    let unheard = child().stderr(to_log).spawn().expect("it starts");
    unheard.wait_for_line("goes on", LIMIT).await.expect("it goes on");
    assert!(unheard.wait(LIMIT).await.expect("it ends").success());
    let heard = child().spawn().expect("it starts");
    for part in ["thread 'work' panicked at ", "out of cheese"] {
        heard.wait_for_line(part, LIMIT).await.expect("it says so");
    }
}

/// Says more than the queue holds, and wants errors alone in its log.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn child_that_says_too_much() {
    tracing_subscriber::fmt().with_env_filter("error").init();
    for _ in 0..40_000 {
        lease_worker_common::stderr::line("x".repeat(63));
    }
    println!("dropped {}", lease_worker_common::stderr::dropped());
    std::thread::sleep(LIMIT);
}

#[tokio::test]
async fn missing_lines_are_spoken_of_also_where_no_warnings_are_wanted() {
    let (log, to_log) = full_pipe().expect("a pipe");
    let args = ["--exact", "logs::child_that_says_too_much", "--ignored", "--nocapture"];
    let child = Process::command(std::env::current_exe().expect("a path")).expect("a program").args(args);
    let child = child.stderr(to_log).spawn().expect("it starts");
    child.wait_for_line("dropped ", LIMIT).await.expect("nobody waits");
    let read = tokio::task::spawn_blocking(|| {
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        lines.find(|line| line.contains("log lines were dropped while standard error could not be written"))
    });
    let told = tokio::time::timeout(LIMIT / 2, read).await.expect("in time").expect("no panic");
    assert!(told.is_some_and(|line| line.starts_with(|first: char| first.is_ascii_digit())));
    child.kill().await.expect("it ends");
}
