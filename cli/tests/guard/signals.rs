//! Signals: passed on, drained, and the terminal's.

use std::time::{Duration, Instant};

use lease_testbed::{Process, Signal};

use crate::common::{
    LIMIT, Place, STOP_BUDGET, await_death, await_killed, descendants, is_alive, outside, pid,
};

/// Nothing here waits for it: what takes half of it was waited out.
const TTL: Duration = Duration::from_secs(60);

crate::common::in_each_isolation!(
    on_sigterm_and_sigint_the_command_drains_under_its_lease_and_is_released_after,
    signals_are_passed_on_to_the_command_alone,
    a_command_that_does_not_stop_is_killed_within_the_stop_budget_and_released,
    a_standby_ends_like_a_command_that_the_signal_ended,
    a_second_signal_within_a_second_belongs_to_the_first_and_a_later_one_is_passed_on,
    ctrl_c_belongs_to_the_command_and_reaches_it_once,
);

async fn signals_are_passed_on_to_the_command_alone(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(
        TTL,
        &[],
        r#"sh -c 'trap "echo child >> log" USR1; echo > ready; while :; do sleep 0.01; done' &
           for s in HUP QUIT USR1 USR2 WINCH; do trap "echo $s >> log" $s; done
           until [ -e ready ]; do sleep 0.01; done
           echo ready >> log
           while :; do sleep 0.01; done"#,
    );
    place.await_lines("log", 1).await;
    let passed = [
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
    ];
    for (count, (name, signal)) in passed.into_iter().enumerate() {
        guard.signal(signal).unwrap();
        assert_eq!(place.await_lines("log", count + 2).await.last().unwrap(), name);
    }
    assert!(!place.lines("log").contains(&"child".to_owned()));
    guard.signal(Signal::TERM).unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(143));
}

async fn on_sigterm_and_sigint_the_command_drains_under_its_lease_and_is_released_after(isolate: &str) {
    tokio::join!(drains(isolate, "TERM", Signal::TERM), drains(isolate, "INT", Signal::INT));
}

async fn drains(isolate: &str, name: &str, signal: Signal) {
    let place = Place::new(isolate);
    let ttl = Duration::from_secs(6);
    // It drains for longer than the ttl: the lease must be renewed meanwhile, often, since one beat may be late.
    let script = format!(
        "trap 'echo told >> log; sleep 8; echo drained >> log; exit 5' {name}
         echo started >> log; while :; do sleep 0.01; done"
    );
    let first = place.guard(ttl, &["--renew-interval", "600ms"], &script);
    place.await_lines("log", 1).await;
    let second = place.guard(ttl, &[], "echo second >> log");
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    first.signal(signal).unwrap();
    assert_eq!(first.wait(LIMIT).await.unwrap().code(), Some(5));
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0));
    assert_eq!(place.lines("log"), ["started", "told", "drained", "second"]);
}

async fn a_command_that_does_not_stop_is_killed_within_the_stop_budget_and_released(isolate: &str) {
    let place = Place::new(isolate);
    let script = "trap '' TERM; echo $$ >> log; while :; do sleep 0.01; done";
    let guard = place.guard(TTL, &STOP_BUDGET, script);
    let command = outside(&guard, pid(&place.await_lines("log", 1).await[0]));
    guard.signal(Signal::TERM).unwrap();
    await_killed(&guard).await;
    assert!(!is_alive(command));
    let next = place.guard(TTL, &[], "exit 0");
    assert_eq!(next.wait(TTL / 2).await.unwrap().code(), Some(0), "it was released");
}

async fn a_standby_ends_like_a_command_that_the_signal_ended(isolate: &str) {
    let place = Place::new(isolate);
    let first = place.guard(TTL, &[], "echo started >> log; exec sleep 1000");
    place.await_lines("log", 1).await;
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let standby = place.guard(TTL, &[], "echo ran >> log");
        standby.wait_for_line("standing by", LIMIT).await.unwrap();
        standby.signal(Signal::USR1).unwrap();
        standby.signal(signal).unwrap();
        assert_eq!(standby.wait(LIMIT).await.unwrap().code(), Some(code));
    }
    assert_eq!(place.lines("log"), ["started"]);
    first.kill().await.unwrap();
}

async fn a_second_signal_within_a_second_belongs_to_the_first_and_a_later_one_is_passed_on(isolate: &str) {
    let place = Place::new(isolate);
    let script =
        "trap 'echo told >> log' TERM; echo started >> log; while [ ! -e leave ]; do sleep 0.01; done";
    let guard = place.guard(TTL, &["--stop-budget", "60s"], script);
    place.await_lines("log", 1).await;
    let first = Instant::now();
    guard.signal(Signal::TERM).unwrap();
    // By now it stops; `timeout` signals its child and then its group.
    guard.wait_for_line("asking the command to end", LIMIT).await.unwrap();
    place.await_lines("log", 2).await;
    guard.signal(Signal::TERM).unwrap();
    let within = first.elapsed() < Duration::from_secs(1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(place.lines("log").len() == 2 || !within, "the same request: {:?}", place.lines("log"));
    let told = place.lines("log").len();
    guard.signal(Signal::TERM).unwrap();
    place.await_lines("log", told + 1).await;
    place.write("leave", "");
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
}

/// In a terminal of its own, made by `script`, which passes its standard input on as what is typed.
fn in_a_terminal(place: &Place, isolate: &str, command: &str) -> Process {
    let guard = format!(
        "{} run --init --isolate {isolate} --sqlite-path leases.db --lease job -- sh -c '{command}'",
        env!("CARGO_BIN_EXE_leasehold")
    );
    // ^C once `type` exists, and again once `again` does.
    let typed = r#"{ until [ -e type ]; do sleep 0.01; done; printf '\003'
                     until [ -e again ]; do sleep 0.01; done; printf '\003'; sleep 1000; }"#;
    Process::command("sh")
        .unwrap()
        .current_dir(place.path("."))
        .args(["-c", &format!("{typed} | script -qefc \"{guard}\" typescript")])
        .spawn()
        .unwrap()
}

/// Shows the terminal's contents, and what each of its processes does, if the test fails.
struct Shown<'a>(&'a Place, &'a Process);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        println!("typescript: {:?}\nterminal: {:?}", self.0.read("typescript"), self.1.lines());
        for pid in [&[self.1.id()], &descendants(self.1.id())[..]].concat() {
            let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            println!(
                "{pid} {:?} waits in {}\nstat {}{}",
                read("cmdline"),
                read("wchan"),
                read("stat"),
                read("status")
            );
        }
    }
}

async fn ctrl_c_belongs_to_the_command_and_reaches_it_once(isolate: &str) {
    let place = Place::new(isolate);
    place.write(
        "command.sh",
        "trap 'echo int >> log' INT; echo $$ >> log
         while [ ! -e leave ]; do sleep 0.01; done; exit 6",
    );
    let terminal = in_a_terminal(&place, isolate, "sh command.sh");
    let shown = Shown(&place, &terminal);
    let command = outside(&terminal, pid(&place.await_lines("log", 1).await[0]));
    place.write("type", "");
    let log = place.await_lines("log", 2).await;
    assert_eq!(log[1], "int");
    // It lives on: had the guard taken the signal for its own, it would have passed it on and begun to stop.
    place.write("again", "");
    until_count(&place, 2).await;
    assert!(is_alive(command));
    place.write("leave", "");
    await_death("the command", &[command]).await;
    crate::common::until("the guard's end", || place.read("typescript").contains("released")).await;
    assert_eq!(place.lines("log").iter().filter(|line| *line == "int").count(), 2);
    drop(shown);
    drop(terminal);
}

async fn until_count(place: &Place, count: usize) {
    crate::common::until("ctrl-c", || {
        place.lines("log").iter().filter(|line| *line == "int").count() >= count
    })
    .await;
}
