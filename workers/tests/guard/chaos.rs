//! Guards for one lease under random kills: their commands never run at the same time.

use std::time::Duration;

use lease_testbed::{Process, Signal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, kill_process};

use crate::common::{Place, children};

const TTL: Duration = Duration::from_secs(2);
const TURNS: usize = 25;

/// Each command marks its run by a file that must not exist, and looks whether a process of an earlier run lives; a
/// daemon of its own writes beside it.
const COMMAND: &str = r#"
    for run in runs/*; do
        [ -e "$run" ] || continue
        for p in $(cat "$run"); do
            kill -0 "$p" 2>/dev/null && echo "epoch $LEASEHOLD_EPOCH: $p of $run lives" >> violations
        done
    done
    set -C; : > "marks/$LEASEHOLD_EPOCH" || echo "epoch $LEASEHOLD_EPOCH ran twice" >> violations; set +C
    (setsid sh -c 'trap "" TERM; echo $$ >> runs/$LEASEHOLD_EPOCH
        while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done' </dev/null >/dev/null 2>&1 &)
    echo $$ >> runs/$LEASEHOLD_EPOCH
    while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done"#;

#[tokio::test]
async fn guards_under_random_kills_never_run_their_commands_at_the_same_time() {
    let seed = std::env::var("LEASEHOLD_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("LEASEHOLD_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new();
    std::fs::create_dir(place.path("runs")).unwrap();
    std::fs::create_dir(place.path("marks")).unwrap();
    let start = || place.guard(TTL, &["--stop-budget", "2s", "--stop-grace", "660ms"], COMMAND);
    let mut guards = vec![start(), start(), start()];
    let mut done = [0; 5];
    crate::common::until("the first run", || marks(&place) > 0).await;
    for _ in 0..TURNS {
        // One fault at a time: whoever loses guard and keeper at once keeps no promise (see the decision).
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_500))).await;
        let anybody = random.random_range(0..guards.len());
        let leads = |guard: &Process| children(guard.id()).iter().any(|keeper| !children(*keeper).is_empty());
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
            // The keeper, or one that just came or went.
            3 => of_a_child(&guards[victim], Signal::KILL),
            _ => of_a_child(&guards[victim], Signal::STOP),
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
        "{TURNS} turns: {done:?} kills, terms, stops, kills and stops of keepers; {runs} runs, {} beats",
        epochs.len()
    );
    assert_eq!(place.read("violations"), "");
    assert!(epochs.is_sorted(), "a command wrote after its successor");
    assert!(runs > TURNS / 3, "too few runs to prove anything: {runs}");
}

fn marks(place: &Place) -> usize {
    std::fs::read_dir(place.path("marks")).unwrap().count()
}

fn of_a_child(guard: &Process, signal: Signal) {
    for child in children(guard.id()) {
        let _ = kill_process(Pid::from_raw(child as i32).unwrap(), signal);
    }
}
