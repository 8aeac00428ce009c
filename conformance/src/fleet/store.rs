//! The store of a simulated fleet: the reference backend behind a mutant or nothing, what an operator does to it, and
//! what an administrator and a failover do.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::{FutureExt, StreamExt};
use lease_core::internal::step::Event;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{
    Change, Grant, Hint, Hints, HistoryRow, Instant, LeaseBackend, LeaseName, Memory, Observation,
    PutOutcome, Record, RequestId,
};
use lease_judge::Recorder;
use lease_judge::history::{Answer, Put, What};

use super::node::MAX_TTL;
use crate::mutants::WrongStore;

pub(super) struct Stage {
    memory: Memory,
    wrong: Option<WrongStore>,
    operator: Arc<dyn LeaseBackend>,
    calls: u64,
    recorder: Recorder,
    lease: LeaseName,
    lineage: u64,
    /// Every register so far and since when, for a failover that loses the last ones.
    past: Vec<(u64, Option<Record>)>,
}

impl Stage {
    pub(super) fn new(
        loses_registers: bool,
        wrong: Option<WrongStore>,
        recorder: Recorder,
        lease: LeaseName,
    ) -> Self {
        let memory = if loses_registers { Memory::new().losing_registers() } else { Memory::new() };
        let operator = connection(&memory, wrong.as_ref());
        Self { memory, wrong, operator, calls: 0, recorder, lease, lineage: 1, past: vec![(0, None)] }
    }

    pub(super) fn connect(&self) -> Arc<dyn LeaseBackend> {
        connection(&self.memory, self.wrong.as_ref())
    }

    pub(super) fn watch(&self) -> Option<Hints> {
        self.connect().watch(self.lease.as_str()).now_or_never()?.ok()
    }

    /// The store's history rows. A failover loses rows that we don't take back here, so then there are none to judge.
    pub(super) fn rows(&mut self) -> Option<Vec<HistoryRow>> {
        if self.lineage > 1 {
            return None;
        }
        self.operator.history(&self.lease, 10_000).now_or_never()?.ok()
    }

    /// Takes note of the register after something may have been written.
    pub(super) fn written(&mut self, now: u64) {
        let record = self.present().record;
        let known = self.past.last().and_then(|(_, record)| record.as_ref()).map(|record| record.tag);
        if record.as_ref().map(|record| record.tag) != known {
            self.past.push((now, record));
        }
    }

    fn present(&self) -> Observation {
        let present = self.memory.observe(&self.lease).now_or_never();
        present.and_then(Result::ok).expect("memory answers at once")
    }

    // === what an administrator and accidents do ===

    pub(super) fn delete(&mut self, now: u64) {
        self.memory.delete(&self.lease);
        self.past.push((now, None));
    }

    /// The store goes on in another lineage, as it was at `then`.
    pub(super) fn fail_over(&mut self, then: u64) {
        let old = self.past.iter().rfind(|(since, _)| *since <= then).and_then(|(_, record)| record.clone());
        self.lineage += 1;
        self.memory.fail_over(&self.lineage.to_string());
        self.memory.rewind_floor(self.lineage << 46);
        match old {
            None => self.memory.delete(&self.lease),
            Some(old) => {
                let present = self.present();
                let put = self.memory.put_if(&self.lease, &present, &old, Change::Request).now_or_never();
                assert!(matches!(put, Some(Ok(PutOutcome::Written(_)))), "memory writes what is asked for");
            }
        }
        self.past = vec![(0, self.present().record)];
    }

    // === what an operator does, recorded as the suite records it ===

    pub(super) fn init(&mut self, now: u64, fresh: &Fresh) {
        self.operate(now, Change::Init, |seen| {
            let closed = || writes::init(seen, MAX_TTL, 0, Some(fresh.grant), fresh);
            seen.record.is_none().then(closed)
        });
    }

    pub(super) fn ask_to_step_down(&mut self, now: u64, fresh: &Fresh) {
        self.operate(now, Change::Request, |seen| {
            let before = seen.record.as_ref()?;
            let Grant(id) = fresh.grant;
            Some(writes::request(before, before.grant?, RequestId(id), "operator", fresh))
        });
    }

    pub(super) fn revoke(&mut self, now: u64, fresh: &Fresh) {
        self.operate(now, Change::Revoke, |seen| {
            Some(writes::revoke(seen, seen.record.as_ref()?, 0, false, "", fresh))
        });
    }

    fn operate(&mut self, now: u64, change: Change, make: impl FnOnce(&Observation) -> Option<Record>) {
        let call = self.sent(now, None);
        let Some(Ok(seen)) = finished(self.operator.observe(&self.lease)) else { return };
        self.tell(now, What::Answered { call, answer: Answer::Seen((&seen).into()) });
        let Some(record) = make(&seen) else { return };
        let put = Put { change, expected: (&seen).into(), record: record.clone() };
        let call = self.sent(now, Some(Box::new(put)));
        let answer = match finished(self.operator.put_if(&self.lease, &seen, &record, change)) {
            Some(Ok(PutOutcome::Written(written))) => Answer::Written((&written).into()),
            Some(Ok(PutOutcome::Conflict(present))) => Answer::Conflict((&present).into()),
            _ => Answer::Unknown,
        };
        self.tell(now, What::Answered { call, answer });
        self.written(now);
    }

    fn sent(&mut self, now: u64, put: Option<Box<Put>>) -> u64 {
        self.calls += 1;
        self.tell(now, What::Sent { call: self.calls, put });
        self.calls
    }

    fn tell(&self, now: u64, what: What) {
        self.recorder.record(&self.lease, Instant(now), "operator", what);
    }
}

fn connection(memory: &Memory, wrong: Option<&WrongStore>) -> Arc<dyn LeaseBackend> {
    let memory: Arc<dyn LeaseBackend> = Arc::new(memory.clone());
    match wrong {
        Some(wrong) => wrong(memory),
        None => memory,
    }
}

/// The future's outcome, unless it waits for somebody who never comes.
fn finished<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    (0..100).find_map(|_| future.as_mut().now_or_never())
}

/// The next hint that waits, as the driver passes it to the step function.
pub(super) fn next_hint(hints: &mut Hints, lease: &LeaseName) -> Option<Event> {
    let mut context = Context::from_waker(futures::task::noop_waker_ref());
    loop {
        match hints.poll_next_unpin(&mut context) {
            Poll::Ready(Some(Hint::Changed)) => return Some(Event::Hint),
            Poll::Ready(Some(Hint::Shows(of, seen))) if of == *lease => return Some(Event::Shown(seen)),
            Poll::Ready(Some(Hint::Shows(..))) => {}
            Poll::Ready(None) | Poll::Pending => return None,
        }
    }
}
