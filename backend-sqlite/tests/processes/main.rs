//! Tests that one process can't make: locks, kills, a full disk, mounts, rights. This program is its own second
//! process: started with `LEASE_SQLITE_ROLE` set, it plays that role instead of running the trials.
#![cfg(target_os = "linux")]
#![allow(unreachable_pub, reason = "nobody depends on a test")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod fuse;
mod kills;
mod locks;
mod opening;
mod peer;
mod places;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Some(role) = std::env::var_os("LEASE_SQLITE_ROLE") {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return peer::play(role.to_str().expect("a role"), &arguments);
    }
    let trial = |name: &str, test: fn()| {
        Trial::test(name.to_owned(), move || {
            test();
            Ok(())
        })
    };
    let trials = vec![
        trial("a_lock_held_longer_than_the_busy_timeout_is_certainly_no_write", locks::held_too_long),
        trial("a_write_waits_for_a_lock_within_its_busy_timeout", locks::held_briefly),
        trial("a_stopped_writer_delays_others_and_holds_nothing_up_for_ever", locks::stopped_writer),
        trial("many_processes_that_open_a_new_file_at_once_all_succeed_and_one_creates", opening::new_file),
        trial("many_processes_that_open_an_empty_file_at_once_all_succeed", opening::empty_file),
        trial("a_second_process_is_not_fooled_by_a_missing_log", opening::missing_log),
        trial("killed_writers_lose_no_acknowledged_write_and_double_no_epoch", kills::writers_in_a_loop),
        trial("a_commit_that_could_not_be_made_durable_is_unknown", disk::crash_after_a_failed_sync),
        trial(
            "a_disk_that_recovers_goes_on_without_the_write_that_failed",
            disk::recovery_after_a_failed_sync,
        ),
        trial("abandoned_writes_do_not_pile_up_behind_a_disk_that_hangs", disk::abandoned_writes),
        trial("a_bad_disk_holds_up_epochs_and_no_beats", disk::only_beats_go_on),
        trial("a_full_disk_keeps_the_register_and_is_answered_honestly", places::full_disk),
        trial("a_file_that_is_mounted_by_itself_is_refused", places::mounted_file),
        trial("a_fuse_file_system_is_refused_before_anything_is_created", places::fuse),
        trial("what_may_not_be_written_is_refused_with_a_sentence", places::no_rights),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
