//! The move as a pure function: both registers go in, the next write comes out.

use std::fmt;
use std::time::Duration;

use super::mark::{self, Mark, MoveRole};
use crate::backend::Change;
use crate::clock::Instant;
use crate::deadline::{Claim, Sighting};
use crate::record::{Grant, Lineage, Observation, Record, RequestId};
use crate::work;
use crate::writes::{self, Fresh};

/// The leases that a move is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MayMove {
    /// Any: an operator knows what it is for.
    Any,
    /// The fleet's own: nobody moves others' (W-1).
    Own {
        /// Its work.
        work: Option<String>,
    },
}

/// A move's settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MoveRules {
    /// The old store's mode, for people.
    pub from: String,
    /// The new store's mode, for people.
    pub to: String,
    /// The name of whoever moves it, for people.
    pub by: String,
    /// The leases that it is for.
    pub may_move: MayMove,
    /// The lease's maximum ttl, in the new store's granularity; the old register's counts if it is longer.
    pub max_ttl: Duration,
}

/// The knowledge of one run of a move, beyond the registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    /// The old register, and since when it shows its beat (T-2).
    pub source: Option<Sighting>,
    /// This very run sealed an open register, acknowledged: the register that it named, and the new store's lineage
    /// when it was prepared.
    pub sealed: Option<(Grant, Lineage)>,
    /// The register that this run prepared when it found the old one gone.
    pub anew: Option<Grant>,
    /// Names this run's requests.
    pub asked: Option<RequestId>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restore => "the old store has no register of it: made one, to be waited out",
            Self::Prepare | Self::PrepareAnew(_) => "prepared the new register, closed",
            Self::Ask(_) => "asked the holder to step down",
            Self::Seal(..) => "sealed the old register: nobody takes it any more",
            Self::Open { free: true } => "opened the new register: the first candidate leads at once",
            Self::Open { free: false } => {
                "opened the new register: candidates take it after one maximum ttl, since another run may have sealed"
            }
            Self::Finish => "finished a move the other way that was left half done",
        })
    }
}

impl Run {
    /// A call failed, or the run stood still: what the old register shows from then on may be of a history that was
    /// lost, so its beat is waited out anew (T-2), and an answer to an earlier request counts for nothing.
    pub fn interrupted(&mut self, asked: RequestId) {
        self.source.iter_mut().for_each(Sighting::interrupted);
        self.asked = Some(asked);
    }

    /// A step's write was acknowledged.
    pub fn made(&mut self, step: &Step) {
        match step {
            Step::Seal(register, lineage) => self.sealed = Some((*register, lineage.clone())),
            Step::PrepareAnew(register) => self.anew = Some(*register),
            _ => {}
        }
    }
}

/// Which register a write goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The old store's.
    Source,
    /// The new store's.
    Target,
}

/// A step, for people and for what the run remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The old register was absent and is made, closed (T-5).
    Restore,
    /// The new register is made, closed.
    Prepare,
    /// The same, where the old one is gone: an opening that is still under way now fails.
    PrepareAnew(Grant),
    /// The holder is asked to step down (H-2), and to leave the register closed.
    Ask(RequestId),
    /// The old register becomes final and names the new one's grant, prepared under this lineage.
    Seal(Grant, Lineage),
    /// The new register opens, free or held by nobody.
    Open {
        /// Candidates may take it at once.
        free: bool,
    },
    /// A move the other way was left half done: its register opens first.
    Finish,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum Next {
    /// Write this on what the side showed.
    Put(Side, Record, Change, Step),
    /// Look again, at this moment at the latest.
    Wait(Instant),
    /// The lease lives in the new store.
    Done,
    /// An operator has to look; the sentence says why and what to do.
    Refuse(String),
}

/// Decides on both registers as last seen, the old one by `run.source`.
pub fn next(rules: &MoveRules, run: &Run, target: &Observation, now: Instant, fresh: &Fresh) -> Next {
    let MoveRules { from, to, .. } = rules;
    let Some(source) = &run.source else { return Next::Wait(now) };
    let seen = source.observation();
    if let (MayMove::Own { work }, Some(old)) = (&rules.may_move, &seen.record)
        && let Some(theirs) = old.work().filter(|_| !old.is_for(work.as_deref()))
    {
        return Next::Refuse(work::differs(theirs, work.as_deref()));
    }
    match (MoveRole::of(seen), MoveRole::of(target)) {
        (MoveRole::Open(_), MoveRole::Open(_)) => Next::Refuse(format!(
            "the lease is open in {from} and in {to}: two may lead. Stop its workers in both, see in both by `leasehold \
             history` or `leasehold status` which one worked last, remove the other's register, and run the move again; \
             docs/operating.md, \"A lease that is open in two stores\", has the command for each store"
        )),
        (_, MoveRole::Open(_)) => Next::Done,
        (MoveRole::Foreign(text), _) | (_, MoveRole::Foreign(text)) => {
            Next::Refuse(format!("a register is final in a way that this version doesn't know: {text:?}"))
        }

        (MoveRole::Open(_), _) if run.sealed.is_some() => Next::Refuse(format!(
            "the lease was moved on while this move stood still: it is open in {from} again. Run it again if it is \
             still meant"
        )),
        (MoveRole::Open(old), MoveRole::Absent) => prepare(rules, old.epoch, old.max_ttl(), target, fresh),
        (MoveRole::Open(old), MoveRole::Moved(_, register, elsewhere)) => {
            // A move back, on whatever way: into what an earlier move left behind.
            if mark::came_by(old, register) {
                prepare(rules, old.epoch, old.max_ttl(), target, fresh)
            } else {
                Next::Refuse(format!(
                    "{to} says that the lease was moved to {elsewhere}, and that is not where {from} has it from: \
                     move it from {elsewhere}"
                ))
            }
        }
        (MoveRole::Open(old), MoveRole::Prepared(_, register, _)) => {
            seal(rules, run, source, old, (register, target.lineage.clone()), now, fresh)
        }

        (MoveRole::Moved(old, register, _), MoveRole::Prepared(new, prepared, _)) if register == prepared => {
            // A failover may have lost that it was open already: then it is waited out.
            let free = run.sealed.as_ref() == Some(&(register, target.lineage.clone()));
            let record = opened(target, new, old, free, rules, fresh);
            Next::Put(Side::Target, record, Change::Init, Step::Open { free })
        }
        (MoveRole::Moved(_, _, elsewhere), _) => Next::Refuse(format!(
            "{from} says that the lease was moved to {elsewhere}, and {to} does not have that register. If it is \
             {to} that lost it, create it there with init, above the greatest epoch that anybody knows; else move it \
             from {elsewhere}"
        )),

        (MoveRole::Prepared(closed, prepared, _), MoveRole::Moved(new, register, _))
            if register == prepared =>
        {
            let record = opened(seen, closed, new, false, rules, fresh);
            Next::Put(Side::Source, record, Change::Init, Step::Finish)
        }
        (MoveRole::Prepared(_, _, elsewhere), _) => Next::Refuse(format!(
            "the lease is not in {from} yet: it was only prepared there for a move from {elsewhere}"
        )),

        (MoveRole::Absent, MoveRole::Moved(_, _, elsewhere)) => Next::Refuse(format!(
            "{to} says that the lease was moved to {elsewhere}, and {from} has no register of it: create it \
             with init where it was lost, above the greatest epoch that anybody knows"
        )),
        // Somebody may still work under a register that was lost, so it is made anew and waited out (T-5). The new one
        // is prepared anew before that: a run that saw the old one's seal may be about to open what is there, and a
        // move the other way, which finds nothing either, would make its own (both: model).
        (MoveRole::Absent, MoveRole::Prepared(new, register, _)) if run.anew == Some(register) => {
            let closed = writes::init(seen, rules.max_ttl, new.epoch, Some(fresh.grant), fresh);
            Next::Put(Side::Source, closed, Change::Init, Step::Restore)
        }
        (MoveRole::Absent, _) => match prepare(rules, seen.floor, Duration::ZERO, target, fresh) {
            Next::Put(side, record, change, _) => {
                Next::Put(side, record, change, Step::PrepareAnew(fresh.grant))
            }
            other => other,
        },
    }
}

/// Closed and final: nobody takes it, whoever looks at it sees why.
fn prepare(rules: &MoveRules, above: u64, max_ttl: Duration, target: &Observation, fresh: &Fresh) -> Next {
    let before = target.record.as_ref();
    let above = before.map_or(0, |before| before.epoch).max(above);
    let closed = writes::init(target, rules.max_ttl.max(max_ttl), above, Some(fresh.grant), fresh);
    let closed = Record {
        transitions: writes::one_more(before.map_or(0, |before| before.transitions)),
        sealed: Some(Mark::Prepared { from: rules.from.clone() }.to_string()),
        ..closed
    };
    let change = if before.is_some() { Change::Seal } else { Change::Init };
    Next::Put(Side::Target, closed, change, Step::Prepare)
}

/// Asks for the old register, waits for it, makes it final.
fn seal(
    rules: &MoveRules,
    run: &Run,
    source: &Sighting,
    old: &Record,
    register: (Grant, Lineage),
    now: Instant,
    fresh: &Fresh,
) -> Next {
    let seen = source.observation();
    let at = match source.claim(old.ttl(), old.max_ttl().max(rules.max_ttl), false) {
        Claim::At(at) => at,
        Claim::AfterALook => return Next::Wait(now),
        Claim::Absent | Claim::Sealed => now,
        Claim::Exhausted => {
            return Next::Refuse(format!(
                "the lease's epochs are used up in {}: no term could follow in {} either. Repair the register first",
                rules.from, rules.to
            ));
        }
    };
    // The holder's work has returned, and it left the register closed for us: in this history of the store (T-3, T-6).
    let answered = run.asked.is_some()
        && old.answered == run.asked
        && old.lineage == seen.lineage
        && !source.is_rewound();
    if answered || now >= at {
        let moved = Mark::Moved { to: rules.to.clone(), register: register.0 };
        let sealed = Record {
            tag: fresh.tag,
            grant: Some(fresh.grant),
            epoch: seen.next_epoch(),
            beat: 0,
            lineage: seen.lineage.clone(),
            transitions: writes::one_more(old.transitions),
            sealed: Some(moved.to_string()),
            request: None,
            note: format!("moved to {} by {}", rules.to, rules.by),
            renewed_at: fresh.wall,
            expires_at: fresh.wall,
            ..old.clone()
        };
        return Next::Put(Side::Source, sealed, Change::Seal, Step::Seal(register.0, register.1));
    }
    match (old.grant, run.asked) {
        (Some(grant), Some(id)) if writes::pending_request(old).is_none() && !old.holder.is_empty() => {
            let asked = writes::reserving_request(old, grant, id, &rules.by, fresh);
            Next::Put(Side::Source, asked, Change::Request, Step::Ask(id))
        }
        _ => Next::Wait(at),
    }
}

/// A prepared register, opened: above everything that either store has issued.
fn opened(
    seen: &Observation,
    prepared: &Record,
    old: &Record,
    free: bool,
    rules: &MoveRules,
    fresh: &Fresh,
) -> Record {
    let max_ttl = prepared.max_ttl().max(rules.max_ttl);
    let register = prepared.grant.unwrap_or(fresh.grant);
    let mut open =
        writes::init(seen, max_ttl, prepared.epoch.max(old.epoch), (!free).then_some(fresh.grant), fresh);
    open.transitions = if free { prepared.transitions } else { writes::one_more(prepared.transitions) };
    open.extra.clone_from(&prepared.extra);
    open.keep_work(old.work());
    mark::continue_way(&mut open, old, register);
    open
}
