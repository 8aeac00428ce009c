//! The conformance suite over SQLite.

use std::process::ExitCode;

use lease_conformance::{Suite, run};
use lease_stores::sqlite::SqliteStore;
use lease_stores::{main_or_actor, start};

fn main() -> ExitCode {
    main_or_actor(|| Ok(run(vec![Suite { harness: start(SqliteStore::start())?, ignored: IGNORED }])))
}

const IGNORED: &[&str] = &[
    // An absent register is created by whoever looks first (T-5).
    "absence::a_standby_does_not_recreate_a_vanished_register",
    "absence::a_vanished_register_ends_the_term_and_heals_closed",
    "absence::nobody_acquires_from_absence",
    // There is no server to restart, and no network to lose a reply.
    "epoch::survives_a_restart",
    "outage::a_restart_of_the_store_is_survived",
    "down::a_term_does_not_end_before_its_deadline",
    "down::a_watch_goes_on_afterwards_or_ends",
    "down::a_write_fails_and_says_whether_it_may_happen",
    "down::connecting_fails_and_is_not_refused",
    "down::every_read_fails_and_shows_nothing",
    "replicas::a_minority_acknowledges_nothing",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
    "certainty::an_acquisition_whose_reply_is_lost_begins_the_term_that_it_wrote",
    "unknown::a_lost_reply_is_reported_as_unknown",
    "unknown::after_a_lost_reply_it_works_again_or_says_that_it_is_disconnected",
    // A replaced file is refused for ever by whoever had opened it (Q-1, tests/identity.rs).
    "lineage::a_change_of_lineage_starts_the_wait_anew",
    "lineage::a_write_across_a_change_of_lineage_conflicts",
    "lineage::epochs_rise_across_a_change_of_lineage",
    "observations::were_true_at_one_moment",
    // It offers all of these.
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
];
