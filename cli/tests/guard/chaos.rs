//! Guards for one lease under random kills: their commands never run at the same time.

use std::time::Duration;

use lease_testbed::{Process, Signal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, kill_process};

use crate::common::{Place, children, descendants, is_pending, state, until};

const TTL: Duration = Duration::from_secs(3);
/// SIGKILL comes half a second before the deadline, the most that there is: a busy machine takes its time to kill.
const TIMES: [&str; 6] = ["--renew-interval", "450ms", "--stop-grace", "2s", "--stop-budget", "2s"];
const TURNS: usize = 25;

/// Each command marks its run by a file that must not exist, and takes a lock that all of an earlier run's processes
/// would still have; a daemon of its own writes beside it.
const COMMAND: &str = r#"
    exec 9>>alive; flock -n -x 9 || echo "epoch $LEASEHOLD_EPOCH: somebody lives" >> violations
    set -C; true > "marks/$LEASEHOLD_EPOCH" || echo "epoch $LEASEHOLD_EPOCH ran twice" >> violations; set +C
    (setsid sh -c 'trap "" TERM
        while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done' </dev/null >/dev/null 2>&1 &)
    while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done"#;

crate::common::in_each_isolation!(guards_under_random_kills_never_run_their_commands_at_the_same_time);

async fn guards_under_random_kills_never_run_their_commands_at_the_same_time(isolate: &str) {
    let seed = std::env::var("LEASEHOLD_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("LEASEHOLD_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new(isolate);
    std::fs::create_dir(place.path("marks")).unwrap();
    let start = || place.guard(TTL, &TIMES, COMMAND);
    let mut guards = vec![start(), start(), start()];
    let mut done = [0; 5];
    until("the first run", || marks(&place) > 0).await;
    let mut turns = 0;
    // Few runs prove nothing, and how many come of so many turns is up to chance and the machine.
    while turns < TURNS || marks(&place) <= TURNS / 3 {
        assert!(turns < 10 * TURNS, "too few runs to prove anything: {}", marks(&place));
        turns += 1;
        // One fault at a time: `leasehold-lab attack` does the rest.
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let anybody = random.random_range(0..guards.len());
        let leads = |guard: &Process| descendants(guard.id()).len() > 2;
        let leader = guards.iter().position(leads).filter(|_| random.random_range(0..4) > 0);
        let victim = leader.unwrap_or(anybody);
        let fault = random.random_range(0..done.len());
        done[fault] += 1;
        match fault {
            0 => drop(guards[victim].signal(Signal::KILL)),
            1 => drop(guards[victim].signal(Signal::TERM)),
            2 => {
                let asleep = Duration::from_millis(random.random_range(100..5_000));
                // One that was asked to end may just have done so.
                if guards[victim].pause().await.is_ok() {
                    tokio::time::sleep(asleep).await;
                    guards[victim].resume().unwrap();
                }
            }
            // The watchdog, or one that just came or went; and before the next fault its guard has made up for it.
            3 => {
                let killed = to_children(&guards[victim], Signal::KILL);
                let anew = |child: &u32| !killed.contains(child) && is_watchdog(*child);
                until("the guard has ended what its watchdog left behind", || {
                    guards[victim].exit_status().is_some() || children(guards[victim].id()).iter().all(anew)
                })
                .await;
            }
            _ => {
                let stopped = to_children(&guards[victim], Signal::STOP);
                let runs =
                    |child: &u32| !is_pending(*child, Signal::STOP) && state(*child).as_deref() != Some("T");
                until("the guard has woken its watchdog", || {
                    guards[victim].exit_status().is_some() || stopped.iter().all(runs)
                })
                .await;
            }
        }
        for guard in &mut guards {
            if guard.exit_status().is_some() {
                *guard = start();
            }
        }
    }
    let epochs: Vec<u64> = place.lines("beats").iter().filter_map(|line| line.parse().ok()).collect();
    let runs = marks(&place);
    println!(
        "{turns} turns: {done:?} kills, terms, stops, kills and stops of watchdogs; {runs} runs, {} beats",
        epochs.len()
    );
    assert_eq!(place.read("violations"), "");
    assert!(epochs.is_sorted(), "a command wrote after its successor");
}

fn marks(place: &Place) -> usize {
    std::fs::read_dir(place.path("marks")).unwrap().count()
}

/// Returns who they were.
fn to_children(guard: &Process, signal: Signal) -> Vec<u32> {
    let children = children(guard.id());
    for child in &children {
        let _ = kill_process(Pid::from_raw(*child as i32).unwrap(), signal);
    }
    children
}

/// And neither the dead one nor what it left to its guard.
fn is_watchdog(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("__watchdog"))
}
