//! Wrong cores that misread: what the store shows, what a call came to, or what the clock says.

use std::collections::BTreeMap;

use lease_core::internal::deadline::Deadline;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Reply};
use lease_core::internal::writes::Fresh;
use lease_core::{Certainty, Grant, Lineage, Loss, Observation, PutOutcome, Record, Tag, WallTime};

use super::Mutant;
use super::views::{core, free, losing, mutant, right, sees, sees_record};
use crate::step::Core;

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
    mutant(
        "heeds requests for other grants",
        heeds_any_request,
        &["handover::a_request_for_another_grant_is_void"],
    ),
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
        "takes a lease of other work",
        takes_others_work,
        &["work::a_register_for_other_work_is_left_alone"],
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
        "waits on over its own outage",
        waits_on_over_an_outage,
        &["rewind::the_very_beat_that_was_seen_last_is_waited_out_anew_after_an_outage"],
    ),
    mutant("takes a hint for freedom", hint_is_freedom, &["watch::a_hint_is_no_proof_of_freedom"]),
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

fn heeds_any_request() -> Core {
    sees_record(|_, record| {
        let grant = record.grant;
        if let (Some(request), Some(grant)) = (&mut record.request, grant) {
            request.grant = grant;
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

fn takes_others_work() -> Core {
    sees_record(|_, record| drop(record.extra.remove("work")))
}

fn takes_sealed() -> Core {
    sees_record(|_, record| {
        if record.sealed.take().is_some() {
            free(record);
        }
    })
}
