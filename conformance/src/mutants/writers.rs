//! Wrong cores that act otherwise on what they read rightly: they write, release, poll or answer wrongly.

use lease_core::internal::step::{Action, CallId, CallRequest, Event, Reply};
use lease_core::internal::writes::Fresh;
use lease_core::{Change, Grant, Loss, PutOutcome, StopReason};

use super::Mutant;
use super::views::{core, free, look_instead_of_beating, losing, mutant, omits, right, writes};
use crate::step::Core;

pub(super) const MUTANTS: &[Mutant] = &[
    losing(
        "heals a vanished register open",
        heals_open,
        &["absence::a_vanished_register_ends_the_term_and_heals_closed"],
    ),
    mutant(
        "keeps the epoch of the record",
        keeps_the_epoch,
        &["acquire::the_same_owner_gets_a_greater_epoch_after_expiry"],
    ),
    mutant(
        "ignores the store's floor",
        ignores_the_floor,
        &["epoch::exceeds_the_floor_when_the_record_is_older"],
    ),
    mutant(
        "uses one grant for all its terms",
        reuses_its_grant,
        &["acquire::the_same_owner_gets_a_greater_epoch_after_expiry"],
    ),
    mutant("outlives its deadline", outlives_its_deadline, &["outage::local_false_by_the_deadline"]),
    mutant("gives the work no warning", gives_no_warning, &["outage::the_work_is_told_before_the_deadline"]),
    mutant(
        "releases before the work returned",
        releases_early,
        &["handover::releases_only_after_the_work_has_returned"],
    ),
    mutant("tries a release only once", releases_once, &["release::an_unknown_release_is_tried_again"]),
    mutant(
        "answers no request",
        answers_nothing,
        &["handover::steps_down_when_asked_and_answers_the_request"],
    ),
    mutant("keeps a request across terms", keeps_requests, &["handover::a_request_dies_with_its_grant"]),
    mutant(
        "stamps the old lineage",
        stamps_the_old_lineage,
        &[
            "lineage::epochs_rise_across_a_change_of_lineage",
            "rewind::a_live_holder_keeps_its_lease_when_all_are_told",
        ],
    ),
    mutant(
        "acquires above what the store still knows",
        acquires_on_what_is_kept,
        &["rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept"],
    ),
    mutant(
        "counts its beats on from what the store still knows",
        beats_on_what_is_kept,
        &["rewind::a_holder_whose_beats_were_taken_back_goes_on_above_them"],
    ),
    mutant("looks only when hinted", never_polls, &["watch::takes_over_by_polling_when_no_hint_ever_comes"]),
    mutant(
        "looks instead of renewing when hinted",
        hints_before_beats,
        &["watch::a_storm_of_hints_costs_nothing"],
    ),
];

fn heals_open() -> Core {
    writes(|_, record, change| {
        if change == Change::Init {
            free(record);
        }
    })
}

fn keeps_the_epoch() -> Core {
    writes(|expected, record, change| {
        if change == Change::Acquire {
            record.epoch = expected.record.as_ref().map_or(0, |before| before.epoch);
        }
    })
}

fn ignores_the_floor() -> Core {
    writes(|expected, record, change| {
        if change == Change::Acquire {
            record.epoch = expected.record.as_ref().map_or(0, |before| before.epoch) + 1;
        }
    })
}

fn reuses_its_grant() -> Core {
    core(|own: &mut Option<Grant>, state, at, event, jitter| {
        let grant = *own.get_or_insert(at.fresh.grant);
        let fresh = Fresh { grant, ..at.fresh.clone() };
        lease_core::internal::step::step(state, at.now, event, &fresh, jitter)
    })
}

/// Hides its expiry from the work, and goes on with renewals of its own.
fn outlives_its_deadline() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let last = state.observation().cloned();
        let (state, mut actions) = right(state, at, event, jitter);
        let expired = actions.iter().position(|action| matches!(action, Action::End(Loss::Expired)));
        if let (Some(expired), Some(last)) = (expired, last)
            && let Some(before) = &last.record
        {
            let record = lease_core::internal::writes::renew(&last, before, at.fresh);
            let beat = CallRequest::Put { expected: last.clone(), record, change: Change::Renew };
            actions[expired] = Action::Send(CallId::MAX, beat);
        }
        (state, actions)
    })
}

fn gives_no_warning() -> Core {
    omits(|action| matches!(action, Action::TellStop(StopReason::Expiring)))
}

fn releases_early() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        if !actions.iter().any(|action| matches!(action, Action::TellStop(_))) {
            return (state, actions);
        }
        let (state, more) = right(state, at, Event::WorkReturned, jitter);
        actions.extend(more);
        (state, actions)
    })
}

fn releases_once() -> Core {
    core(|released: &mut bool, state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        actions.retain(|action| {
            let release = matches!(action, Action::Send(_, CallRequest::Put { change: Change::Release, .. }));
            !(release && std::mem::replace(released, true))
        });
        (state, actions)
    })
}

fn answers_nothing() -> Core {
    writes(|_, record, change| {
        if change == Change::Release {
            record.answered = None;
        }
    })
}

fn keeps_requests() -> Core {
    writes(|expected, record, change| {
        if change == Change::Acquire {
            record.request = expected.record.as_ref().and_then(|before| before.request.clone());
        }
    })
}

fn stamps_the_old_lineage() -> Core {
    writes(|expected, record, change| {
        if let Some(before) = expected.record.as_ref().filter(|_| change != Change::Init) {
            record.lineage = before.lineage.clone();
        }
    })
}

/// Goes by the last answer's floor and record, whatever it saw before.
fn acquires_on_what_is_kept() -> Core {
    core(|kept: &mut u64, state, at, event, jitter| {
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &event {
            *kept = seen.next_epoch();
        }
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &mut actions {
            if let Action::Send(_, CallRequest::Put { record, change: Change::Acquire, .. }) = action {
                record.epoch = *kept;
            }
        }
        (state, actions)
    })
}

fn beats_on_what_is_kept() -> Core {
    writes(|expected, record, change| {
        if change == Change::Renew {
            record.beat = expected.record.as_ref().map_or(0, |before| before.beat) + 1;
        }
    })
}

fn never_polls() -> Core {
    core(|looks: &mut u32, state, at, event, jitter| {
        let hinted = matches!(event, Event::Hint);
        let (state, mut actions) = right(state, at, event, jitter);
        actions.retain(|action| {
            let look = matches!(action, Action::Send(_, CallRequest::Observe));
            *looks += u32::from(look);
            !look || hinted || *looks <= 2
        });
        (state, actions)
    })
}

/// A hint under way always comes first, so beats never do.
fn hints_before_beats() -> Core {
    core(|hinted: &mut bool, state, at, event, jitter| {
        *hinted |= matches!(event, Event::Hint);
        let (state, mut actions) = right(state, at, event, jitter);
        if *hinted {
            look_instead_of_beating(&mut actions);
        }
        (state, actions)
    })
}
