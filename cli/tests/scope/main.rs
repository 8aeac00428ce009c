//! The conformance suite over the ledger's fencing scopes: the store of the sidecar's elector.
//!
//! First as plain registers, which everything is judged on. Then as a sidecar sees them, with terms free once the
//! ledger's clock says that they have run out: there, T-2's wait does not apply, and all else does.

mod harness;

use std::process::ExitCode;
use std::sync::Arc;

use harness::LedgerHarness;
use lease_conformance::{Suite, Verdict, actor_main, report, run};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    if let Some(harness) = LedgerHarness::of_this_process() {
        return actor_main(Arc::new(harness));
    }
    let harness = LedgerHarness::start();
    let registers = run(vec![Suite { harness: Arc::new(harness.clone()), ignored: IGNORED }]);
    // A filter or --list is meant for the trials above.
    if std::env::args().count() > 1 || registers != ExitCode::SUCCESS {
        return registers;
    }
    as_a_sidecar_sees_them(harness.as_a_sidecar_sees_it())
}

fn as_a_sidecar_sees_them(harness: LedgerHarness) -> ExitCode {
    let harness = Arc::new(harness);
    let told = |case: &lease_conformance::CaseReport| match &case.verdict {
        Verdict::Passed { .. } => println!("run out is free: {} ... ok", case.id),
        Verdict::Failed { why } => println!("run out is free: {} ... FAILED\n{why}", case.id),
        Verdict::Ignored { .. } => {}
    };
    let mut good = true;
    for cases in SEEN_BY_A_SIDECAR {
        match report(harness.clone(), cases, told, &CancellationToken::new()) {
            Ok(report) => good &= report.is_good(),
            Err(error) => {
                println!("run out is free: {cases}: {error}");
                good = false;
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const IGNORED: &[&str] = &[
    // No role of the ledger may delete a scope.
    "register::conflicts_when_it_is_gone_against_expectation",
    "epoch::survives_an_administrators_deletion",
    "epoch::exceeds_the_floor_when_the_record_is_older",
    "deletion::a_register_made_anew_is_not_the_deleted_one",
    "deletion::an_earlier_absence_is_another_one",
    "deletion::history_goes_on_after_it",
    "deletion::a_holder_that_is_forgotten_is_waited_out",
    "capabilities::tell_a_deletion_by_its_lineage",
    // Whether the ledger may make a scope decides its parent, not the candidate.
    "absence::nobody_acquires_from_absence",
    "absence::a_vanished_register_ends_the_term_and_heals_closed",
    "absence::a_standby_does_not_recreate_a_vanished_register",
    // Scopes and their effects are rewound together: there is one lineage.
    "lineage::a_write_across_a_change_of_lineage_conflicts",
    "lineage::a_change_of_lineage_starts_the_wait_anew",
    "lineage::epochs_rise_across_a_change_of_lineage",
    "rewind::a_register_that_is_free_again_is_waited_out_at_the_maximum",
    "rewind::an_earlier_beat_is_waited_out_at_the_maximum",
    "rewind::the_very_beat_that_was_seen_last_is_waited_out_anew_after_an_outage",
    "rewind::a_holder_whose_beats_were_taken_back_goes_on_above_them",
    "rewind::a_newcomer_waits_if_it_is_told",
    "rewind::a_live_holder_keeps_its_lease_when_all_are_told",
    "rewind::a_delayed_write_to_a_restored_register_conflicts",
    "rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept",
    "observations::were_true_at_one_moment",
    // A restart is judged; its replicas would be Postgres'.
    "down::every_read_fails_and_shows_nothing",
    "down::a_write_fails_and_says_whether_it_may_happen",
    "down::connecting_fails_and_is_not_refused",
    "down::a_term_does_not_end_before_its_deadline",
    "down::a_watch_goes_on_afterwards_or_ends",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
    "replicas::a_minority_acknowledges_nothing",
    // A scope admits its present term and no other; tests/ledger judges that.
    "fence::admits_the_first_the_same_and_every_later_term",
    "fence::refuses_an_earlier_term_and_leaves_no_trace",
    "fence::refuses_an_epoch_above_the_ceiling",
    "fence::refuses_another_grant_of_the_same_epoch",
    "fence::admits_in_order_under_concurrency",
    "fence::a_paused_holders_late_effect_is_refused",
    "process::a_holder_stopped_past_its_ttl_writes_late_and_is_refused",
    "process::effects_of_many_terms_keep_their_order",
    // It is watched; fencing_scope_events is its history, in the ledger's own words.
    "watch::is_refused_clearly_where_it_is_not_offered",
    "list::shows_every_register_under_the_prefix_and_no_other",
    "list::shows_what_was_just_written",
    "list::takes_the_prefix_literally",
    "names::that_begin_alike_are_listed_by_their_own_prefix",
    "names::are_listed_letter_for_letter",
    "many::registers_are_all_listed",
    "history::each_change_of_holder_leaves_one_row",
    "history::names_takeovers_also_after_a_release",
    "history::renewals_requests_and_conflicts_leave_none",
    "history::shows_the_newest_rows_oldest_first",
    "history::concurrent_acquisitions_leave_one_row",
    "history::tells_the_life_of_an_elector",
];

/// Groups of cases, and single ones of groups in which others wait out a ttl by the candidate's own clock, or compare
/// a record with the one that was written before its term ran out.
const SEEN_BY_A_SIDECAR: &[&str] = &[
    "epoch::the_floor",
    "epoch::rises",
    "epoch::survives_a_release",
    "epoch::a_raised_fence",
    "epoch::init_above",
    "acquire::",
    "renew::",
    "release::",
    "unknown::",
    "outage::",
    "watch::",
    "cancellation::",
    "process::",
    "fence::a_refused_term_ends_at_once",
    "expiry::a_dead_holder_is_followed_by_one",
    "expiry::does_not_take_over_a_renewing_holder",
    "expiry::wall_",
    "expiry::a_killed_holders_term",
    "expiry::a_request_does_not_postpone",
    "handover::releases_only_after",
    "handover::local_false",
    "handover::steps_down",
    "handover::a_request",
    "handover::a_revocation_of_a_dead_holder",
    "handover::a_sealed",
];
