//! Guards for one lease under random kills: their commands never run at the same time.

use std::time::Duration;

use lease_testbed::{Process, Signal};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, kill_process};

use crate::common::{Place, children, is_pending, state, until};

const TTL: Duration = Duration::from_secs(3);
/// SIGKILL comes half a second before the deadline, the most that there is: a busy machine takes its time to kill.
const TIMES: [&str; 6] = ["--renew-interval", "450ms", "--stop-grace", "2s", "--stop-budget", "2s"];
const TURNS: usize = 25;

/// Each command marks its run by a file that must not exist, and looks whether a process of an earlier run lives; a
/// daemon of its own writes beside it. A process is its number and the time of its start (field 22): of 32,768 numbers
/// each comes again within a minute or so.
const COMMAND: &str = r#"
    for run in runs/*; do
        [ -e "$run" ] || continue
        while read -r p began; do
            { read -r stat < "/proc/$p/stat"; } 2>/dev/null || continue
            set -- $stat
            [ "${22}" = "$began" ] && echo "epoch $LEASEHOLD_EPOCH: $p of $run lives" >> violations
        done < "$run"
    done
    set -C; true > "marks/$LEASEHOLD_EPOCH" || echo "epoch $LEASEHOLD_EPOCH ran twice" >> violations; set +C
    (setsid sh -c 'trap "" TERM
        read -r stat < /proc/$$/stat; set -- $stat; echo "$$ ${22}" >> runs/$LEASEHOLD_EPOCH
        while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done' </dev/null >/dev/null 2>&1 &)
    read -r stat < /proc/$$/stat; set -- $stat; echo "$$ ${22}" >> runs/$LEASEHOLD_EPOCH
    while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.002; done"#;

#[tokio::test]
async fn guards_under_random_kills_never_run_their_commands_at_the_same_time() {
    let seed = std::env::var("LEASEHOLD_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("LEASEHOLD_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let place = Place::new();
    std::fs::create_dir(place.path("runs")).unwrap();
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
            // The keeper, or one that just came or went; and before the next fault its guard has made up for it.
            3 => {
                let killed = to_children(&guards[victim], Signal::KILL);
                let anew = |child: &u32| !killed.contains(child) && is_keeper(*child);
                until("the guard has ended what its keeper left behind", || {
                    guards[victim].exit_status().is_some() || children(guards[victim].id()).iter().all(anew)
                })
                .await;
            }
            _ => {
                let stopped = to_children(&guards[victim], Signal::STOP);
                let runs =
                    |child: &u32| !is_pending(*child, Signal::STOP) && state(*child).as_deref() != Some("T");
                until("the guard has woken its keeper", || {
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
        "{turns} turns: {done:?} kills, terms, stops, kills and stops of keepers; {runs} runs, {} beats",
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
fn is_keeper(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("__keeper"))
}
