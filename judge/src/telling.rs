//! Histories as text, for the message of a failure.

use lease_core::{Instant, Record, Term};

use crate::history::{Answer, History, HistoryEntry, View, What};

/// This many events of a history are told from its beginning, and from its end.
const TOLD: usize = 200;

impl History {
    /// The history for people, one event a line; of a long history only its beginning and its end.
    pub fn tell(&self) -> String {
        // What a step was told and what it did are events of their own.
        let told = self.events.iter().filter(|event| !matches!(event.what, What::Stepped(_)));
        let told: Vec<_> = told.collect();
        let (first, last) = told.split_at(told.len().min(TOLD));
        let skipped = last.len().saturating_sub(TOLD);
        let mut lines: Vec<_> = first.iter().map(|event| self.line(event)).collect();
        if skipped > 0 {
            lines.push(format!("… {skipped} events …"));
        }
        lines.extend(last[skipped..].iter().map(|event| self.line(event)));
        lines.join("\n")
    }

    /// One event, in a line.
    pub(crate) fn line(&self, event: &HistoryEntry) -> String {
        let start = self.start();
        let at = event.at.since(start).as_micros();
        format!("{:>10.3} ms  {:<12} {}", at as f64 / 1000.0, event.actor, event.what.tell(start))
    }

    /// The moment that told times count from.
    pub(crate) fn start(&self) -> Instant {
        self.events.first().map_or(Instant::ZERO, |event| event.at)
    }
}

/// A record in a few words.
pub fn in_brief(record: &Record) -> String {
    let grant = record.grant.map_or("free".to_owned(), |grant| format!("{:.4}", grant.to_string()));
    format!("{}/{grant} beat {} by {:?}", record.epoch, record.beat, record.holder)
}

impl What {
    /// The event, with times that count from `start`.
    pub(crate) fn tell(&self, start: Instant) -> String {
        let ms = |at: &Instant| format!("{:.3} ms", at.since(start).as_micros() as f64 / 1000.0);
        let short = |term: &Term| format!("{}/{:.4}", term.epoch, term.grant.to_string());
        let view = |view: &View| match &view.record {
            None => "absent".to_owned(),
            Some(record) => in_brief(record),
        };
        match self {
            Self::Sent { call, put: None } => format!("#{call} observe"),
            Self::Sent { call, put: Some(put) } => {
                let (from, to) = (view(&put.expected), in_brief(&put.record));
                format!("#{call} {:?}: {from} -> {to}", put.change)
            }
            Self::Answered { call, answer } => match answer {
                Answer::Seen(seen) => format!("#{call} seen {}", view(seen)),
                Answer::Written(seen) => format!("#{call} written {}", view(seen)),
                Answer::Conflict(seen) => format!("#{call} conflict with {}", view(seen)),
                failed => format!("#{call} {failed:?}"),
            },
            Self::Shown { view: shown } => format!("shown {}", view(shown)),
            Self::Begun { term, deadline } => format!("BEGUN {} until {}", short(term), ms(deadline)),
            Self::Extended { term, deadline } => format!("extended {} until {}", short(term), ms(deadline)),
            Self::Ended { term, loss } => format!("ENDED {}: {loss}", short(term)),
            Self::Claimed { term, until, gap_ms, .. } => {
                format!("claims {} until {}, asked every {gap_ms} ms", short(term), ms(until))
            }
            Self::Effect { resource, id, term, sent, outcome } => {
                format!("effect {id} of {} on {resource}, sent at {}: {outcome:?}", short(term), ms(sent))
            }
            Self::Stepped(step) => format!("step: {:?}", step.took),
            Self::Ruled(rules) => format!("campaigns as {:?}, ttl {:?}", rules.who.holder, rules.who.ttl),
            Self::Outside { from, deleted } => {
                let how = if *deleted { "deleted" } else { "changed" };
                format!("<- {how} from outside, since {}", ms(from))
            }
            Self::Fault { name } => format!("<- {name}"),
            Self::StillTrue { term } => format!("STILL TRUE {}", short(term)),
            other => format!("{other:?}"),
        }
    }
}
