//! Commands with children, all of whom must be dead before anybody else leads.

use lease_testbed::Process;

use crate::common::{Place, outside, pid};

/// A command with a child and a double-forked daemon; all say who they are, and write without end.
pub(crate) const FAMILY: &str = r#"exec 9>>alive; flock -s 9
    beat() { while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.005; done; }
    (setsid sh -c 'echo $$ >> pids; while :; do echo "$LEASEHOLD_EPOCH" >> beats; sleep 0.005; done' \
        </dev/null >/dev/null 2>&1 &)
    sh -c 'echo $$ >> pids; while :; do sleep 0.01; done' &
    echo $$ >> pids
    beat"#;

/// The same, deaf to SIGTERM.
pub(crate) fn deaf_family() -> String {
    // An ignored signal stays ignored in children.
    format!("trap '' TERM INT HUP; {FAMILY}")
}

/// Exits with 9 if one of the family is still there, whatever its number in another namespace.
pub(crate) const SUCCESSOR: &str =
    r#"echo "$LEASEHOLD_EPOCH" >> beats; exec 9>>alive; flock -n -x 9 || exit 9"#;

/// The numbers out here of this guard's family, which is the place's nth.
pub(crate) async fn family(place: &Place, guard: &Process, generation: usize) -> Vec<u32> {
    let pids = place.await_lines("pids", generation * 3).await;
    pids[(generation - 1) * 3..].iter().map(|line| outside(guard, pid(line))).collect()
}

/// The beats of a term never come after those of a later one.
pub(crate) fn assert_beats_in_order(place: &Place) {
    let epochs: Vec<u64> = place.lines("beats").iter().map(|line| line.parse().unwrap()).collect();
    assert!(epochs.is_sorted(), "a command wrote after its successor: {epochs:?}");
}
