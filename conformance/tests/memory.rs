//! The suite over the reference backend, as a store that keeps its registers and as one that can lose them.

use std::process::ExitCode;
use std::sync::Arc;

use lease_conformance::{MemoryHarness, Suite, run};

fn main() -> ExitCode {
    run(vec![
        Suite { harness: Arc::new(MemoryHarness::keeping()), ignored: KEEPING },
        Suite { harness: Arc::new(MemoryHarness::losing()), ignored: LOSING },
    ])
}

const KEEPING: &[&str] = &[
    "absence::a_standby_does_not_recreate_a_vanished_register",
    "absence::a_vanished_register_ends_the_term_and_heals_closed",
    "absence::nobody_acquires_from_absence",
    "epoch::survives_a_restart",
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "outage::a_restart_of_the_store_is_survived",
    "process::a_holder_stopped_past_its_ttl_writes_late_and_is_refused",
    "process::a_killed_holder_is_followed",
    "process::effects_of_many_terms_keep_their_order",
    "process::sigterm_and_sigint_release_at_once",
    "process::two_processes_with_one_workload_name_are_two_grants",
    "watch::is_refused_clearly_where_it_is_not_offered",
];

const LOSING: &[&str] = &[
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    "epoch::survives_a_restart",
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "outage::a_restart_of_the_store_is_survived",
    "process::a_holder_stopped_past_its_ttl_writes_late_and_is_refused",
    "process::a_killed_holder_is_followed",
    "process::effects_of_many_terms_keep_their_order",
    "process::sigterm_and_sigint_release_at_once",
    "process::two_processes_with_one_workload_name_are_two_grants",
    "watch::is_refused_clearly_where_it_is_not_offered",
];
