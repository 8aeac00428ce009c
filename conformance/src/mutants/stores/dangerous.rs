//! Stores under which two may lead, or epochs fall. Each is caught by trials of two groups at least.

use super::compares::{ComparesAVersion, IgnoresTheLineageOfAbsence, StampForLineage};
use super::failures::{FailedReadIsAbsence, FailedReadIsOld, FailedWriteIsCertain, FailedWriteIsWritten};
use super::hints::{Hinted, free};
use super::lies::Declares;
use super::twist::twisted;
use super::wrong::{Wrong, wrong};
use super::{losing, mutant};
use crate::mutants::Mutant;

pub(crate) const MUTANTS: &[Mutant] = &[
    mutant(
        "selects, then updates",
        || wrong(Wrong::SelectThenUpdate),
        &[
            "register::one_of_32_concurrent_writers_is_written",
            "register::one_of_32_concurrent_acquisitions_is_written",
            "history::concurrent_acquisitions_leave_one_row",
        ],
    ),
    mutant(
        "tries a conflict again by itself",
        || wrong(Wrong::RetriesConflicts),
        &[
            "register::conflicts_when_the_tag_differs",
            "renew::an_old_terms_renewal_changes_nothing",
            "release::an_old_terms_release_changes_nothing",
        ],
    ),
    mutant(
        "reports a conflict as written",
        || wrong(Wrong::ConflictIsWritten),
        &[
            "register::a_conflict_shows_the_register_and_changes_nothing",
            "history::concurrent_acquisitions_leave_one_row",
        ],
    ),
    mutant(
        "matches renewals and releases by the holder's name",
        || wrong(Wrong::MatchesNames),
        &[
            "renew::does_not_renew_a_newer_term_of_the_same_holder",
            "release::does_not_release_a_newer_term_of_the_same_holder",
        ],
    ),
    mutant(
        "compares epoch and beat, not the tag",
        || wrong(Wrong::ComparesBeats),
        &[
            "register::compares_the_tag_and_not_epoch_or_beat",
            "compare::an_expectation_with_another_tag_conflicts",
            "rewind::a_delayed_write_to_a_restored_register_conflicts",
        ],
    ),
    mutant(
        "does not compare absence",
        || wrong(Wrong::UpsertsWhenAbsent),
        &[
            "register::conflicts_when_it_exists_against_expectation",
            "compare::an_absence_under_another_lineage_conflicts",
            "deletion::an_earlier_absence_is_another_one",
        ],
    ),
    mutant(
        "creates a deleted register anew",
        || wrong(Wrong::RecreatesDeleted),
        &[
            "register::conflicts_when_it_is_gone_against_expectation",
            "compare::a_register_expected_where_none_is_conflicts",
            "deletion::an_earlier_absence_is_another_one",
        ],
    ),
    mutant(
        "does not compare the lineage",
        || wrong(Wrong::IgnoresLineage),
        &[
            "lineage::a_write_across_a_change_of_lineage_conflicts",
            "compare::an_expectation_under_another_lineage_conflicts",
            "compare::an_absence_under_another_lineage_conflicts",
            "deletion::an_earlier_absence_is_another_one",
        ],
    ),
    mutant(
        "never advances its floor",
        || wrong(Wrong::FloorStandsStill),
        &[
            "epoch::the_floor_is_never_below_an_issued_epoch",
            "deletion::a_register_made_anew_is_not_the_deleted_one",
            "cancellation::an_acquisition_dropped_at_every_await_is_whole_or_absent",
        ],
    ),
    mutant(
        "forgets its epochs with the register",
        || wrong(Wrong::FloorOfTheRecord),
        &[
            "epoch::survives_an_administrators_deletion",
            "epoch::exceeds_the_floor_when_the_record_is_older",
            "deletion::a_register_made_anew_is_not_the_deleted_one",
        ],
    ),
    mutant(
        "reads from a cache",
        || wrong(Wrong::ReadsACache),
        &[
            "register::an_acknowledged_write_is_seen_by_every_connection",
            "observations::have_the_stores_lineage_and_not_the_stamp",
            "epoch::a_raised_fence_is_exceeded_by_the_next_term",
        ],
    ),
    mutant(
        "expires registers by its own wall clock",
        || wrong(Wrong::ExpiresByWallClock),
        &["expiry::wall_times_in_the_record_change_nothing", "register::keeps_every_field_as_written"],
    ),
    mutant(
        "reports a failed write as written",
        || wrong(Wrong::LosesWrites),
        &[
            "register::an_acknowledged_write_is_seen_by_every_connection",
            "lineage::is_stamped_by_init_acquire_renew_and_release",
            "list::shows_what_was_just_written",
        ],
    ),
    mutant(
        "counts each register's writes, and compares the number",
        || twisted(ComparesAVersion),
        &[
            "compare::an_expectation_with_another_tag_conflicts",
            "deletion::a_register_made_anew_is_not_the_deleted_one",
            "rewind::a_delayed_write_to_a_restored_register_conflicts",
        ],
    ),
    mutant(
        "takes any absence for the expected one",
        || twisted(IgnoresTheLineageOfAbsence),
        &[
            "compare::an_absence_under_another_lineage_conflicts",
            "deletion::an_earlier_absence_is_another_one",
        ],
    ),
    mutant(
        "gives the record's stamp for the lineage",
        || twisted(StampForLineage),
        &[
            "observations::have_the_stores_lineage_and_not_the_stamp",
            "lineage::free_under_a_foreign_stamp_is_not_taken_at_once",
        ],
    ),
    mutant(
        "shows an absence when a read fails",
        || twisted(FailedReadIsAbsence),
        &[
            "down::every_read_fails_and_shows_nothing",
            "down::a_term_does_not_end_before_its_deadline",
            "replicas::a_minority_shows_nothing_that_was_overtaken",
        ],
    ),
    mutant(
        "shows its own copy when a read fails",
        || twisted(FailedReadIsOld::default()),
        &[
            "down::every_read_fails_and_shows_nothing",
            "replicas::a_minority_shows_nothing_that_was_overtaken",
        ],
    ),
    mutant(
        "acknowledges a write that fails",
        || twisted(FailedWriteIsWritten),
        &["down::a_write_fails_and_says_whether_it_may_happen", "replicas::a_minority_acknowledges_nothing"],
    ),
    mutant(
        "says of every failed write that nothing happened",
        || twisted(FailedWriteIsCertain),
        &[
            "unknown::a_lost_reply_is_reported_as_unknown",
            "certainty::an_acquisition_whose_reply_is_lost_begins_the_term_that_it_wrote",
        ],
    ),
    mutant(
        "hints at freedom before it is written",
        || twisted(Hinted(free)),
        &[
            "hints::show_what_was_there_under_the_stores_lineage",
            "acquire::only_one_of_two_leads",
            "renew::keeps_the_term_for_many_ttls",
        ],
    ),
    losing(
        "says that it loses no register, and does",
        || twisted(Declares(|told| told.creates_registers = true)),
        &[
            "capabilities::tell_a_deletion_by_its_lineage",
            "deletion::a_holder_that_is_forgotten_is_waited_out",
        ],
    ),
];
