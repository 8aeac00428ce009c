//! Wrong cores, run on the reference backend.

use std::collections::BTreeMap;

use lease_core::internal::deadline::Deadline;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Reply};
use lease_core::internal::writes::Fresh;
use lease_core::{
    Certainty, Change, Grant, Lineage, Loss, Observation, PutOutcome, Record, StopReason, Tag, WallTime,
};

use super::views::{core, omits, right, sees, sees_record, writes};
use super::{Kind, Mutant};
use crate::step::Core;

const fn mutant(name: &'static str, make: fn() -> Core, killers: &'static [&'static str]) -> Mutant {
    Mutant { name, killers, kind: Kind::Core(make), losing: false }
}

const fn losing(name: &'static str, make: fn() -> Core, killers: &'static [&'static str]) -> Mutant {
    Mutant { name, killers, kind: Kind::Core(make), losing: true }
}

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "expires by the wall clock",
        expires_by_wall_clock,
        &[
            "expiry::wall_clocks_an_hour_off_change_nothing",
            "expiry::wall_times_in_the_record_change_nothing",
        ],
    ),
    mutant(
        "takes over without waiting",
        takes_over_without_waiting,
        &["expiry::does_not_take_over_a_renewing_holder", "acquire::only_one_of_two_leads"],
    ),
    mutant(
        "waits for its own ttl only",
        waits_for_its_own_ttl_only,
        &["expiry::waits_for_the_records_longer_ttl"],
    ),
    mutant(
        "starts the wait anew with every write",
        every_write_is_a_beat,
        &["expiry::a_request_does_not_postpone_the_takeover"],
    ),
    mutant(
        "matches renewals by the holder's name",
        renews_by_name,
        &["renew::does_not_renew_a_newer_term_of_the_same_holder"],
    ),
    mutant(
        "counts the deadline from the reply",
        deadline_from_the_reply,
        &["renew::a_slow_renewal_counts_from_its_sending"],
    ),
    mutant(
        "lets a read move the deadline",
        a_read_moves_the_deadline,
        &["renew::a_read_never_moves_the_deadline"],
    ),
    losing("acquires from absence", acquires_from_absence, &["absence::nobody_acquires_from_absence"]),
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
    mutant(
        "takes an error for a loss",
        error_is_loss,
        &["outage::a_short_blip_loses_nothing", "outage::failed_renewals_end_no_term_before_the_deadline"],
    ),
    mutant(
        "takes an error for success",
        error_is_success,
        &["outage::local_false_by_the_deadline", "unknown::an_acquisition_that_never_arrived_is_not_held"],
    ),
    mutant(
        "takes unknown for not applied",
        unknown_is_not_applied,
        &["unknown::an_acquisition_whose_reply_was_lost_is_adopted_not_doubled"],
    ),
    mutant(
        "takes its own grant for a confirmation",
        own_grant_is_proof,
        &["unknown::seeing_ones_own_grant_proves_nothing"],
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
    mutant(
        "heeds requests for other grants",
        heeds_any_request,
        &["handover::a_request_for_another_grant_is_void"],
    ),
    mutant("keeps a request across terms", keeps_requests, &["handover::a_request_dies_with_its_grant"]),
    mutant(
        "takes foreign freedom at once",
        takes_foreign_freedom,
        &[
            "lineage::free_under_a_foreign_stamp_is_not_taken_at_once",
            "lineage::held_under_a_foreign_stamp_is_waited_out_at_the_maximum",
            "rewind::a_newcomer_waits_if_it_is_told",
        ],
    ),
    mutant(
        "stamps the old lineage",
        stamps_the_old_lineage,
        &[
            "lineage::epochs_rise_across_a_change_of_lineage",
            "rewind::a_live_holder_keeps_its_lease_when_all_are_told",
        ],
    ),
    mutant(
        "waits on across a change of lineage",
        waits_on_across_lineages,
        &["lineage::a_change_of_lineage_starts_the_wait_anew"],
    ),
    mutant(
        "takes what the store has forgotten for news",
        forgets_what_it_saw,
        &[
            "rewind::a_register_that_is_free_again_is_waited_out_at_the_maximum",
            "rewind::an_earlier_beat_is_waited_out_at_the_maximum",
        ],
    ),
    mutant(
        "acquires above what the store still knows",
        acquires_on_what_is_kept,
        &["rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept"],
    ),
    mutant(
        "waits on over its own outage",
        waits_on_over_an_outage,
        &["rewind::the_very_beat_that_was_seen_last_is_waited_out_anew_after_an_outage"],
    ),
    mutant(
        "counts its beats on from what the store still knows",
        beats_on_what_is_kept,
        &["rewind::a_holder_whose_beats_were_taken_back_goes_on_above_them"],
    ),
    mutant("takes a hint for freedom", hint_is_freedom, &["watch::a_hint_is_no_proof_of_freedom"]),
    mutant("looks only when hinted", never_polls, &["watch::takes_over_by_polling_when_no_hint_ever_comes"]),
    mutant(
        "looks instead of renewing when hinted",
        hints_before_beats,
        &["watch::a_storm_of_hints_costs_nothing"],
    ),
    mutant(
        "ignores a fence's refusal",
        ignores_refusals,
        &["fence::a_refused_term_ends_at_once_and_raises_nothing"],
    ),
    mutant(
        "pre-empts of its own accord",
        preempts_unasked,
        &["handover::a_fenced_holder_is_followed_at_once_on_the_callers_word"],
    ),
    mutant(
        "pre-empts holders that are not fenced",
        preempts_the_unfenced,
        &["handover::an_unfenced_holder_is_waited_out_whatever_the_caller_says"],
    ),
    mutant("takes sealed registers", takes_sealed, &["handover::a_sealed_register_is_never_taken"]),
];

/// As a release leaves it: the same beat without its grant would count as a restore.
fn free(record: &mut Record) {
    record.grant = None;
    record.beat += 1;
}

fn expires_by_wall_clock() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) && record.expires_at.0 <= at.fresh.wall.0 {
            free(record);
        }
    })
}

fn takes_over_without_waiting() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) {
            free(record);
        }
    })
}

fn waits_for_its_own_ttl_only() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) {
            record.ttl_ms = at.ttl.as_millis() as u64;
        }
    })
}

fn every_write_is_a_beat() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) {
            record.beat = record.tag.0 as u64;
        }
    })
}

fn renews_by_name() -> Core {
    sees_record(|at, record| {
        if let Some(term) = at.state.leads(at.now)
            && record.holder == at.holder
            && record.grant.is_some()
        {
            record.grant = Some(term.grant);
            record.epoch = term.epoch;
        }
    })
}

fn deadline_from_the_reply() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &mut actions {
            if let Action::Begin(_, deadline) | Action::Extend(deadline) = action {
                *deadline = Deadline::of_acknowledged(at.now, at.ttl);
            }
        }
        (state, actions)
    })
}

fn a_read_moves_the_deadline() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let term = state.leads(at.now);
        let own = |seen: &Observation| seen.record.as_ref().and_then(Record::term) == term;
        let read = matches!(&event, Event::Reply(_, Reply::Seen(seen)) if own(seen));
        let (state, mut actions) = right(state, at, event, jitter);
        if read && term.is_some() {
            actions.push(Action::Extend(Deadline::of_acknowledged(at.now, at.ttl)));
        }
        (state, actions)
    })
}

/// A free register in the place of an absent one, known by its tag.
const NOTHING: Tag = Tag(0);

fn acquires_from_absence() -> Core {
    core(|_: &mut (), state, at, mut event, jitter| {
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &mut event
            && seen.record.is_none()
        {
            let fresh = Fresh { tag: NOTHING, grant: Grant(0), wall: WallTime(0) };
            seen.record = Some(lease_core::internal::writes::init(seen, at.ttl, 0, None, &fresh));
        }
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &mut actions {
            if let Action::Send(_, CallRequest::Put { expected, .. }) = action
                && expected.tag() == Some(NOTHING)
            {
                expected.record = None;
            }
        }
        (state, actions)
    })
}

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

fn error_is_loss() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let failed = matches!(event, Event::Reply(_, Reply::Failed(_))) && at.leads();
        let (state, mut actions) = right(state, at, event, jitter);
        if failed {
            actions.push(Action::End(Loss::Superseded));
        }
        (state, actions)
    })
}

/// The writes that were sent, by call.
type Sent = BTreeMap<CallId, (Observation, Record)>;

fn remember(sent: &mut Sent, actions: &[Action]) {
    for action in actions {
        if let Action::Send(id, CallRequest::Put { expected, record, .. }) = action {
            sent.insert(*id, (expected.clone(), record.clone()));
        }
    }
}

fn error_is_success() -> Core {
    core(|sent: &mut Sent, state, at, mut event, jitter| {
        if let Event::Reply(id, reply @ Reply::Failed(Certainty::Unknown)) = &mut event
            && let Some((expected, record)) = sent.get(id)
        {
            let written = Observation { record: Some(record.clone()), ..expected.clone() };
            *reply = Reply::Put(PutOutcome::Written(written));
        }
        let (state, actions) = right(state, at, event, jitter);
        remember(sent, &actions);
        (state, actions)
    })
}

fn unknown_is_not_applied() -> Core {
    core(|_: &mut (), state, at, mut event, jitter| {
        if let Event::Reply(_, Reply::Failed(certainty)) = &mut event {
            *certainty = Certainty::NotApplied;
        }
        right(state, at, event, jitter)
    })
}

fn own_grant_is_proof() -> Core {
    core(|sent: &mut Sent, state, at, event, jitter| {
        let shown = match &event {
            Event::Reply(_, Reply::Seen(seen)) if !at.leads() => seen.record.as_ref().and_then(Record::term),
            _ => None,
        };
        let own = shown.filter(|term| sent.values().any(|(_, record)| record.term() == Some(*term)));
        let (state, mut actions) = right(state, at, event, jitter);
        remember(sent, &actions);
        if let Some(term) = own {
            actions.push(Action::Begin(term, Deadline::of_acknowledged(at.now, at.ttl)));
        }
        (state, actions)
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

fn heeds_any_request() -> Core {
    sees_record(|_, record| {
        let grant = record.grant;
        if let (Some(request), Some(grant)) = (&mut record.request, grant) {
            request.grant = grant;
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

fn takes_foreign_freedom() -> Core {
    sees(|_, seen| {
        let present = seen.lineage.clone();
        if let Some(record) = &mut seen.record {
            record.lineage = present;
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

/// Shows the step one lineage for ever, and compares the present one.
fn waits_on_across_lineages() -> Core {
    core(|first: &mut Option<(Lineage, Lineage)>, state, at, mut event, jitter| {
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &mut event {
            let (shown, present) = first.get_or_insert((seen.lineage.clone(), seen.lineage.clone()));
            present.clone_from(&seen.lineage);
            seen.lineage.clone_from(shown);
        }
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &mut actions {
            if let (Action::Send(_, CallRequest::Put { expected, .. }), Some((_, present))) =
                (action, &*first)
            {
                expected.lineage.clone_from(present);
            }
        }
        (state, actions)
    })
}

fn forgets_what_it_saw() -> Core {
    sees(|at, seen| {
        let Some(before) = at.state.observation().and_then(|before| before.record.as_ref()) else { return };
        if let Some(record) = &mut seen.record
            && (record.epoch, record.beat) < (before.epoch, before.beat)
        {
            (record.epoch, record.beat) = (before.epoch, before.beat + 1);
        }
    })
}

fn waits_on_over_an_outage() -> Core {
    core(|_: &mut (), state, at, mut event, jitter| {
        if let (Event::Reply(_, reply @ Reply::Failed(_)), Some(seen)) = (&mut event, state.observation())
            && !at.leads()
        {
            *reply = Reply::Seen(seen.clone());
        }
        right(state, at, event, jitter)
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

/// For good, once hinted: a further hint during a look would make it look again, and forget.
fn hint_is_freedom() -> Core {
    core(|hinted: &mut bool, state, at, mut event, jitter| {
        match &mut event {
            Event::Hint => *hinted = true,
            Event::Reply(_, Reply::Seen(seen)) if *hinted => {
                if let Some(record) = seen.record.as_mut().filter(|record| at.is_others(record)) {
                    free(record);
                }
            }
            _ => {}
        }
        right(state, at, event, jitter)
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
            actions.retain(|action| {
                !matches!(action, Action::Send(_, CallRequest::Put { change: Change::Renew, .. }))
            });
        }
        (state, actions)
    })
}

fn ignores_refusals() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let event = if matches!(event, Event::FenceRefused(_)) { Event::Tick } else { event };
        right(state, at, event, jitter)
    })
}

fn preempts_unasked() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) && record.preemptible {
            free(record);
        }
    })
}

fn preempts_the_unfenced() -> Core {
    sees_record(|at, record| record.preemptible |= at.is_others(record))
}

fn takes_sealed() -> Core {
    sees_record(|_, record| {
        if record.sealed.take().is_some() {
            free(record);
        }
    })
}
