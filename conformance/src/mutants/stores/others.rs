//! Stores that lose information, or time, and no lease.

use lease_core::BackendError;

use super::compares::{FailsSpuriously, LineageAfterwards};
use super::failures::{FailedReadIsEmpty, FailedReadIsRefused, FailedWatchIsSilent, WatchNeverEnds};
use super::hints::{Hinted, under_another_lineage, under_the_stamp, with_a_tag_of_its_own};
use super::lies::{
    Declares, HasTwoNames, Keeps, ListsAPage, ListsBy, NumbersRowsAnew, RefusesToList, Renames, cut_off,
    short_notes, whole_seconds, without_dots,
};
use super::twist::twisted;
use super::wrong::{Wrong, wrong};
use super::{connecting, mutant};
use crate::mutants::Mutant;

pub(crate) const MUTANTS: &[Mutant] = &[
    mutant(
        "deletes the register on release",
        || wrong(Wrong::ReleaseDeletes),
        &["release::keeps_the_register"],
    ),
    mutant(
        "counts a request as a beat",
        || wrong(Wrong::RequestBeats),
        &["register::a_request_leaves_grant_and_beat_alone"],
    ),
    mutant(
        "forgets fields that it does not know",
        || wrong(Wrong::ForgetsExtra),
        &["register::keeps_fields_that_it_does_not_know"],
    ),
    mutant(
        "answers a write with what was there before",
        || wrong(Wrong::AnswersWithTheOld),
        &["register::a_written_answer_shows_what_was_written"],
    ),
    mutant(
        "leaves its lock behind when dropped",
        || wrong(Wrong::LeavesItsLock),
        &["cancellation::a_write_dropped_at_every_await_leaves_nothing_behind"],
    ),
    mutant(
        "gives a dropped read's answer to the next",
        || wrong(Wrong::OutOfStep),
        &["cancellation::a_read_dropped_at_every_await_leaves_nothing_behind"],
    ),
    mutant(
        "writes its row after the register",
        || wrong(Wrong::RowAfterwards),
        &["cancellation::an_acquisition_dropped_at_every_await_is_whole_or_absent"],
    ),
    mutant(
        "leaves no row for a takeover after a release",
        || wrong(Wrong::MissesTakeovers),
        &["history::names_takeovers_also_after_a_release"],
    ),
    mutant(
        "leaves two rows",
        || wrong(Wrong::DoublesRows),
        &["history::each_change_of_holder_leaves_one_row", "acquire::leads_on_a_free_register"],
    ),
    mutant(
        "leaves a row for each renewal",
        || wrong(Wrong::RowsForRenewals),
        &["history::renewals_requests_and_conflicts_leave_none"],
    ),
    mutant(
        "lists more than the prefix",
        || wrong(Wrong::ListsAll),
        &[
            "list::shows_every_register_under_the_prefix_and_no_other",
            "names::that_begin_alike_are_listed_by_their_own_prefix",
        ],
    ),
    mutant("watches without ever speaking", || wrong(Wrong::MuteWatch), &["release::wakes_a_watcher"]),
    mutant(
        "reads the lineage after the record",
        || twisted(LineageAfterwards),
        &["observations::were_true_at_one_moment"],
    ),
    mutant(
        "fails a compare for no reason",
        || twisted(FailsSpuriously::default()),
        &[
            "compare::a_write_that_nobody_contends_never_conflicts",
            "compare::a_conflict_shows_another_register_than_was_expected",
        ],
    ),
    mutant(
        "shows an empty list when it fails",
        || twisted(FailedReadIsEmpty),
        &["down::every_read_fails_and_shows_nothing"],
    ),
    mutant(
        "is silent when a watch fails",
        || twisted(FailedWatchIsSilent),
        &["down::every_read_fails_and_shows_nothing"],
    ),
    mutant(
        "is silent when a watch is lost",
        || twisted(WatchNeverEnds),
        &["down::a_watch_goes_on_afterwards_or_ends"],
    ),
    mutant(
        "refuses a read that fails",
        || twisted(FailedReadIsRefused),
        &["down::every_read_fails_and_shows_nothing"],
    ),
    mutant(
        "hints under the record's stamp",
        || twisted(Hinted(under_the_stamp)),
        &["hints::show_what_was_there_under_the_stores_lineage"],
    ),
    mutant(
        "hints under a lineage of its own",
        || twisted(Hinted(under_another_lineage)),
        &["hints::show_what_was_there_under_the_stores_lineage", "hints::are_fit_for_a_write"],
    ),
    mutant(
        "hints with a tag of its own",
        || twisted(Hinted(with_a_tag_of_its_own)),
        &["hints::show_what_was_there_under_the_stores_lineage"],
    ),
    mutant(
        "hides its watch",
        || twisted(Declares(|told| told.watch = false)),
        &["capabilities::are_those_that_answer"],
    ),
    mutant(
        "hides its list",
        || twisted(Declares(|told| told.list = false)),
        &["capabilities::are_those_that_answer"],
    ),
    mutant(
        "hides its history",
        || twisted(Declares(|told| told.history = false)),
        &["capabilities::are_those_that_answer"],
    ),
    mutant(
        "declares a list that it refuses",
        || twisted(RefusesToList),
        &["capabilities::are_those_that_answer"],
    ),
    mutant(
        "has no name for its mode",
        || twisted(Declares(|told| told.name = "My Store")),
        &["capabilities::name_a_mode_that_a_refusal_repeats"],
    ),
    mutant(
        "has two names for its mode",
        || twisted(HasTwoNames::default()),
        &["capabilities::name_a_mode_that_a_refusal_repeats", "register::capabilities_do_not_change"],
    ),
    mutant(
        "rounds ttls that its granularity allows",
        || twisted(Keeps(whole_seconds)),
        &["capabilities::keep_every_multiple_of_the_granularity"],
    ),
    mutant("cuts long texts off", || twisted(Keeps(short_notes)), &["texts::are_kept_whole_or_refused"]),
    mutant(
        "takes a dot for a hyphen",
        || twisted(Renames(without_dots)),
        &["names::that_are_alike_are_different_registers"],
    ),
    mutant(
        "cuts long names off",
        || twisted(Renames(cut_off)),
        &["names::that_are_alike_are_different_registers"],
    ),
    mutant(
        "lists by a prefix in any case",
        || twisted(ListsBy(str::to_lowercase)),
        &["names::are_listed_letter_for_letter"],
    ),
    mutant(
        "lists by a prefix with wildcards",
        || twisted(ListsBy(|prefix| prefix.replace('_', "-"))),
        &["names::are_listed_letter_for_letter"],
    ),
    mutant("lists the first page", || twisted(ListsAPage), &["many::registers_are_all_listed"]),
    mutant(
        "numbers its history anew after a deletion",
        || twisted(NumbersRowsAnew),
        &["deletion::history_goes_on_after_it"],
    ),
    connecting(
        "refuses a connection that fails",
        |error| BackendError { refused: true, ..error },
        &["down::connecting_fails_and_is_not_refused"],
    ),
];
