//! Stores that are wrong in the register itself: one wrapper with a switch for each mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Change, Hints, HistoryEvent, HistoryRow, LeaseBackend, LeaseName, Listed,
    Observation, PutOutcome, Record, WallTime,
};
use tokio::sync::Semaphore;

use crate::mutants::WrongStore;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wrong {
    SelectThenUpdate,
    RetriesConflicts,
    ConflictIsWritten,
    MatchesNames,
    ComparesBeats,
    UpsertsWhenAbsent,
    RecreatesDeleted,
    IgnoresLineage,
    FloorStandsStill,
    FloorOfTheRecord,
    ReleaseDeletes,
    ReadsACache,
    RequestBeats,
    ExpiresByWallClock,
    ForgetsExtra,
    AnswersWithTheOld,
    LosesWrites,
    LeavesItsLock,
    OutOfStep,
    RowAfterwards,
    MissesTakeovers,
    DoublesRows,
    RowsForRenewals,
    ListsAll,
    MuteWatch,
}

/// The state that all connections to a wrong store share.
struct Shared {
    deleted: Mutex<BTreeSet<LeaseName>>,
    renewals: AtomicU64,
    missing_rows: AtomicI64,
    lock: Semaphore,
}

struct Store {
    inner: Arc<dyn LeaseBackend>,
    wrong: Wrong,
    shared: Arc<Shared>,
    cache: Mutex<BTreeMap<LeaseName, Observation>>,
    leftover: Mutex<Option<Observation>>,
}

pub(super) fn wrong(wrong: Wrong) -> WrongStore {
    let shared = Arc::new(Shared {
        deleted: Mutex::default(),
        renewals: AtomicU64::new(0),
        missing_rows: AtomicI64::new(0),
        lock: Semaphore::new(1),
    });
    Arc::new(move |inner| {
        Arc::new(Store {
            inner,
            wrong,
            shared: shared.clone(),
            cache: Mutex::default(),
            leftover: Mutex::default(),
        })
    })
}

impl Store {
    fn disguise(&self, name: &LeaseName, mut seen: Observation) -> Observation {
        match self.wrong {
            Wrong::FloorStandsStill => seen.floor = 0,
            Wrong::FloorOfTheRecord => seen.floor = seen.record.as_ref().map_or(0, |record| record.epoch),
            Wrong::ReleaseDeletes if self.shared.deleted.lock().expect("not poisoned").contains(name) => {
                seen.record = None;
            }
            Wrong::ExpiresByWallClock => {
                let expired = seen.record.as_mut().filter(|record| record.expires_at.0 <= WallTime::now().0);
                expired.into_iter().for_each(|record| record.grant = None);
            }
            _ => {}
        }
        seen
    }

    /// Writes whatever the register holds.
    async fn overwrite(
        &self,
        name: &LeaseName,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        loop {
            let present = self.inner.observe(name).await?;
            let outcome = self.inner.put_if(name, &present, record, change).await?;
            if matches!(outcome, PutOutcome::Written(_)) {
                return Ok(outcome);
            }
        }
    }

    /// Does this store take the register for what was expected, although it isn't?
    fn takes_for_expected(&self, expected: &Observation, present: &Observation, change: Change) -> bool {
        let (before, now) = (expected.record.as_ref(), present.record.as_ref());
        match self.wrong {
            Wrong::RetriesConflicts => true,
            Wrong::MatchesNames => {
                matches!(change, Change::Renew | Change::Release)
                    && before.zip(now).is_some_and(|(before, now)| before.holder == now.holder)
            }
            Wrong::ComparesBeats => before.zip(now).is_some_and(|(before, now)| {
                (before.epoch, before.beat, before.grant) == (now.epoch, now.beat, now.grant)
            }),
            Wrong::UpsertsWhenAbsent => before.is_none(),
            Wrong::RecreatesDeleted => now.is_none(),
            Wrong::IgnoresLineage => expected.tag() == present.tag(),
            Wrong::ReleaseDeletes => before.is_none(),
            _ => false,
        }
    }
}

/// Wide enough that a case which drops a call at each of its polls in turn drops one here: how many polls the rest of the
/// call takes differs from one time to the next.
pub(super) async fn several_polls() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[async_trait]
impl LeaseBackend for Store {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        if self.wrong == Wrong::ReadsACache {
            if let Some(seen) = self.cache.lock().expect("not poisoned").get(name) {
                return Ok(seen.clone());
            }
            let seen = self.inner.observe(name).await?;
            self.cache.lock().expect("not poisoned").insert(name.clone(), seen.clone());
            return Ok(seen);
        }
        if self.wrong == Wrong::OutOfStep {
            let leftover = self.leftover.lock().expect("not poisoned").take();
            if let Some(seen) = leftover {
                return Ok(seen);
            }
            let seen = self.inner.observe(name).await?;
            *self.leftover.lock().expect("not poisoned") = Some(seen.clone());
            several_polls().await;
            *self.leftover.lock().expect("not poisoned") = None;
            return Ok(seen);
        }
        Ok(self.disguise(name, self.inner.observe(name).await?))
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let mut record = record.clone();
        match self.wrong {
            Wrong::RequestBeats if change == Change::Request => record.beat += 1,
            Wrong::ForgetsExtra => record.extra.clear(),
            Wrong::SelectThenUpdate => {
                let present = self.inner.observe(name).await?;
                if present.tag() != expected.tag() {
                    return Ok(PutOutcome::Conflict(present));
                }
                // As between two statements.
                tokio::task::yield_now().await;
                return self.overwrite(name, &record, change).await;
            }
            Wrong::LosesWrites if change == Change::Renew => {
                let written = Observation { record: Some(record), ..expected.clone() };
                return Ok(PutOutcome::Written(written));
            }
            Wrong::LeavesItsLock => {
                let permit = self.shared.lock.acquire().await.expect("never closed");
                permit.forget();
                tokio::task::yield_now().await;
                let outcome = self.inner.put_if(name, expected, &record, change).await;
                self.shared.lock.add_permits(1);
                return outcome;
            }
            Wrong::RowAfterwards if change == Change::Acquire => {
                let outcome = self.inner.put_if(name, expected, &record, change).await;
                self.shared.missing_rows.fetch_add(1, Ordering::SeqCst);
                several_polls().await;
                self.shared.missing_rows.fetch_sub(1, Ordering::SeqCst);
                return outcome;
            }
            _ => {}
        }
        let mut outcome = self.inner.put_if(name, expected, &record, change).await?;
        if let PutOutcome::Conflict(present) = &outcome
            && self.takes_for_expected(expected, present, change)
        {
            outcome = self.overwrite(name, &record, change).await?;
        }
        Ok(match outcome {
            PutOutcome::Written(written) => {
                let mut deleted = self.shared.deleted.lock().expect("not poisoned");
                if change == Change::Release {
                    deleted.insert(name.clone());
                } else {
                    deleted.remove(name);
                }
                drop(deleted);
                self.shared.renewals.fetch_add(u64::from(change == Change::Renew), Ordering::SeqCst);
                match self.wrong {
                    Wrong::AnswersWithTheOld => PutOutcome::Written(expected.clone()),
                    _ => PutOutcome::Written(self.disguise(name, written)),
                }
            }
            PutOutcome::Conflict(present) => match self.wrong {
                Wrong::ConflictIsWritten => {
                    PutOutcome::Written(Observation { record: Some(record), ..present })
                }
                _ => PutOutcome::Conflict(self.disguise(name, present)),
            },
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let prefix = if self.wrong == Wrong::ListsAll { &prefix[..prefix.len() / 2] } else { prefix };
        self.inner.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        if self.wrong == Wrong::MuteWatch {
            return Ok(Box::pin(futures::stream::pending()));
        }
        self.inner.watch(prefix).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let mut rows = self.inner.history(name, limit).await?;
        match self.wrong {
            Wrong::MissesTakeovers => rows.retain(|row| row.event_type != HistoryEvent::TakenOver),
            Wrong::DoublesRows => {
                let again = |row: HistoryRow| {
                    [
                        HistoryRow { sequence: row.sequence * 2 - 1, ..row.clone() },
                        HistoryRow { sequence: row.sequence * 2, ..row },
                    ]
                };
                rows = rows.into_iter().flat_map(again).collect();
            }
            Wrong::RowsForRenewals => {
                if let Some(last) = rows.last().cloned() {
                    let renewals = self.shared.renewals.load(Ordering::SeqCst) as i64;
                    rows.extend(
                        (1..=renewals).map(|n| HistoryRow { sequence: last.sequence + n, ..last.clone() }),
                    );
                }
            }
            Wrong::RowAfterwards => {
                let missing = self.shared.missing_rows.load(Ordering::SeqCst).max(0) as usize;
                rows.truncate(rows.len().saturating_sub(missing));
            }
            _ => {}
        }
        Ok(rows)
    }
}
