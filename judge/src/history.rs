//! What happened, as one host clock saw it: the only thing that the invariants look at.
//!
//! All instants are `CLOCK_BOOTTIME` of one host, so histories of several processes on it can be merged.

use std::io::Write;
use std::sync::{Arc, Mutex};

use lease_core::{
    Change, Grant, HistoryRow, Instant, LeaseName, Lineage, Loss, Observation, Record, Tag, Term,
};
use serde::{Deserialize, Serialize};

/// What an answer showed of a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The store's lineage.
    pub lineage: Lineage,
    /// The record, or its absence.
    pub record: Option<Record>,
}

impl View {
    /// The present grant.
    pub fn grant(&self) -> Option<Grant> {
        self.record.as_ref().and_then(|record| record.grant)
    }

    /// What the next write compares.
    pub fn tag(&self) -> Option<Tag> {
        self.record.as_ref().map(|record| record.tag)
    }

    /// What T-2 compares: lineage, grant and beat.
    pub fn beat(&self) -> (&Lineage, Option<(Option<Grant>, u64)>) {
        (&self.lineage, self.record.as_ref().map(|record| (record.grant, record.beat)))
    }
}

impl From<&Observation> for View {
    fn from(observation: &Observation) -> Self {
        Self { lineage: observation.lineage.clone(), record: observation.record.clone() }
    }
}

/// How a call to the store ended, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "histories are short")]
pub enum Answer {
    /// A read's answer.
    Seen(View),
    /// The write was applied.
    Written(View),
    /// The write was not applied, for the register is as shown.
    Conflict(View),
    /// Certainly not applied.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

impl Answer {
    /// What it showed.
    pub fn view(&self) -> Option<&View> {
        match self {
            Self::Seen(view) | Self::Written(view) | Self::Conflict(view) => Some(view),
            Self::NotApplied | Self::Unknown => None,
        }
    }
}

/// A write as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// What it means.
    pub change: Change,
    /// What it compares.
    pub expected: View,
    /// What it writes.
    pub record: Record,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "histories are short")]
pub enum What {
    /// An elector begins to campaign.
    Campaigning {
        /// Its ttl.
        ttl_ms: u64,
        /// Its longest poll interval.
        poll_ms: u64,
    },
    /// A call was sent: a write, or a read if there is none.
    Sent {
        /// Names the call within its actor.
        call: u64,
        /// The write.
        put: Option<Put>,
    },
    /// A call was answered.
    Answered {
        /// The call.
        call: u64,
        /// How it ended.
        answer: Answer,
    },
    /// A watch showed the register as it was at some moment.
    Shown {
        /// What it showed.
        view: View,
    },
    /// A call's future was dropped: nobody knows how it ended.
    Dropped {
        /// The call.
        call: u64,
    },
    /// `is_leader_now()` turned true.
    Begun {
        /// The term.
        term: Term,
        /// When it turns false if nothing follows.
        deadline: Instant,
    },
    /// The deadline moved.
    Extended {
        /// The term.
        term: Term,
        /// To this.
        deadline: Instant,
    },
    /// The work was told to stop.
    StopTold {
        /// The term.
        term: Term,
    },
    /// The work returned.
    WorkReturned,
    /// `is_leader_now()` turned false for good.
    Ended {
        /// The term.
        term: Term,
        /// Why.
        loss: Loss,
    },
    /// The actor was killed, or cut off from the store for good.
    Died,
    /// The actor did not run for a while: stopped by a signal.
    Paused,
    /// A resource refused the term (F-1).
    Refused {
        /// The term.
        term: Term,
    },
    /// When another term began, this one's `is_leader_now()` was still true.
    StillTrue {
        /// The earlier term.
        term: Term,
    },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// Whose; two processes with one workload name are two actors.
    pub actor: String,
    /// What.
    pub what: What,
}

/// The effects that one resource admitted, in its own order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// The resource.
    pub resource: String,
    /// Epoch and id of each effect.
    pub admitted: Vec<(u64, String)>,
}

/// How many events of a history are told from its beginning, and from its end.
const TOLD: usize = 200;

/// All that happened to one lease.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ordered by time; the events of one actor are in the order in which it saw them.
    pub events: Vec<Event>,
    /// The store's own history rows, oldest first; `None` if it keeps none, or if they weren't read.
    pub rows: Option<Vec<HistoryRow>>,
    /// What the fenced resources of this lease admitted.
    pub effects: Vec<Effects>,
}

impl History {
    /// Puts events that several processes recorded into one order.
    pub fn sort(&mut self) {
        self.events.sort_by_key(|event| event.at);
    }

    /// Readable, one event a line; of a long history only its beginning and its end.
    pub fn tell(&self) -> String {
        let start = self.events.first().map_or(Instant::ZERO, |event| event.at);
        let line = |event: &Event| {
            let at = event.at.since(start).as_micros();
            format!("{:>10.3} ms  {:<12} {}", at as f64 / 1000.0, event.actor, event.what.tell(start))
        };
        let (first, last) = self.events.split_at(self.events.len().min(TOLD));
        let skipped = last.len().saturating_sub(TOLD);
        let mut lines: Vec<_> = first.iter().map(line).collect();
        if skipped > 0 {
            lines.push(format!("… {skipped} events …"));
        }
        lines.extend(last[skipped..].iter().map(line));
        lines.join("\n")
    }
}

/// A record in a few words.
pub fn shown(record: &Record) -> String {
    let grant = record.grant.map_or("free".to_owned(), |grant| format!("{:.4}", grant.to_string()));
    format!("{}/{grant} beat {} by {:?}", record.epoch, record.beat, record.holder)
}

impl What {
    fn tell(&self, start: Instant) -> String {
        let ms = |at: &Instant| format!("{:.3} ms", at.since(start).as_micros() as f64 / 1000.0);
        let short = |term: &Term| format!("{}/{:.4}", term.epoch, term.grant.to_string());
        let view = |view: &View| match &view.record {
            None => "absent".to_owned(),
            Some(record) => shown(record),
        };
        match self {
            Self::Sent { call, put: None } => format!("#{call} observe"),
            Self::Sent { call, put: Some(put) } => {
                let to = View { lineage: put.expected.lineage.clone(), record: Some(put.record.clone()) };
                format!("#{call} {:?}: {} -> {}", put.change, view(&put.expected), view(&to))
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
            Self::StillTrue { term } => format!("STILL TRUE {}", short(term)),
            other => format!("{other:?}"),
        }
    }
}

/// Takes events in, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    events: Arc<Mutex<Vec<(LeaseName, Event)>>>,
    prints: bool,
}

impl Recorder {
    /// Prints each event as one line of JSON on standard output instead, for the process that started this one.
    pub fn printing() -> Self {
        Self { prints: true, ..Self::default() }
    }

    /// Takes one event in.
    pub fn record(&self, lease: &LeaseName, at: Instant, actor: &str, what: What) {
        let event = Event { at, actor: actor.to_owned(), what };
        if self.prints {
            let line = serde_json::to_string(&event).expect("events are plain data");
            // Whoever reads is gone if this fails; then nobody wants to know.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
            return;
        }
        self.events.lock().expect("not poisoned").push((lease.clone(), event));
    }

    /// The leases that something happened to.
    pub fn leases(&self) -> Vec<LeaseName> {
        let mut leases: Vec<_> =
            self.events.lock().expect("not poisoned").iter().map(|(lease, _)| lease.clone()).collect();
        leases.sort();
        leases.dedup();
        leases
    }

    /// What has happened to `lease` so far.
    pub fn history(&self, lease: &LeaseName) -> History {
        let events = self.events.lock().expect("not poisoned");
        let events = events.iter().filter(|(of, _)| of == lease).map(|(_, event)| event.clone()).collect();
        let mut history = History { events, ..History::default() };
        history.sort();
        history
    }
}
