//! The reference backend: registers in this process's memory. For tests, and as the shortest correct backend to read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::backend::{
    Capabilities, Change, Connector, Hint, Hints, HistoryEvent, HistoryRow, LeaseBackend, Listed, PutOutcome,
};
use crate::error::BackendError;
use crate::record::{LeaseName, Lineage, Observation, Record, WallTime};

/// Registers in memory. Clones share them: one is the store, each clone a connection to it.
#[derive(Clone, Debug)]
pub struct Memory {
    store: Arc<Mutex<Store>>,
    changed: broadcast::Sender<(LeaseName, Observation)>,
    creates_registers: bool,
}

#[derive(Debug)]
struct Store {
    registers: BTreeMap<LeaseName, Record>,
    /// Where candidates create registers: those that were deleted all the same. Their absence has a lineage of its own,
    /// so that whoever creates one anew leaves a foreign stamp, and its holder is waited out (T-3).
    deleted: BTreeSet<LeaseName>,
    history: Vec<HistoryRow>,
    lineage: Lineage,
    floor: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        let store = Store {
            registers: BTreeMap::new(),
            deleted: BTreeSet::new(),
            history: Vec::new(),
            lineage: Lineage("1".into()),
            floor: 0,
        };
        Self {
            store: Arc::new(Mutex::new(store)),
            changed: broadcast::channel(64).0,
            creates_registers: true,
        }
    }

    /// For an elector: each connection is to this same store.
    pub fn connector(&self) -> impl Connector + use<> {
        let memory = self.clone();
        move || {
            let backend: Arc<dyn LeaseBackend> = Arc::new(memory.clone());
            std::future::ready(Ok(backend))
        }
    }

    /// Behaves like a store whose registers can get lost, so that absence is never acquired from (T-5).
    pub fn losing_registers(mut self) -> Self {
        self.creates_registers = false;
        self
    }

    /// Deletes a register, as only an administrator would.
    pub fn delete(&self, name: &LeaseName) {
        let mut store = self.lock();
        store.registers.remove(name);
        if self.creates_registers {
            store.deleted.insert(name.clone());
        }
        let _ = self.changed.send((name.clone(), store.observation(name)));
    }

    /// Puts a register back, as a restore from a backup does (T-6): no watch tells of it.
    pub fn put_back(&self, name: &LeaseName, kept: Option<Record>) {
        let registers = &mut self.lock().registers;
        match kept {
            Some(record) => registers.insert(name.clone(), record),
            None => registers.remove(name),
        };
    }

    /// Puts the floor back, as a restore from a backup does (T-6).
    pub fn rewind_floor(&self, floor: u64) {
        self.lock().floor = floor;
    }

    /// Goes on in another history, as a store does after an accident.
    pub fn fail_over(&self, lineage: &str) {
        self.lock().lineage = Lineage(lineage.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no code panics while it holds this lock")
    }
}

impl Store {
    fn observation(&self, name: &LeaseName) -> Observation {
        let record = self.registers.get(name).cloned();
        let lineage = match record.is_none() && self.deleted.contains(name) {
            true => Lineage(format!("{}:deleted", self.lineage)),
            false => self.lineage.clone(),
        };
        Observation { record, lineage, floor: self.floor, version: String::new() }
    }
}

#[async_trait]
impl LeaseBackend for Memory {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        Ok(self.lock().observation(name))
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let mut store = self.lock();
        let present = store.observation(name);
        if present.tag() != expected.tag() || present.lineage != expected.lineage {
            return Ok(PutOutcome::Conflict(present));
        }
        store.registers.insert(name.clone(), record.clone());
        if record.grant != expected.grant() && record.grant.is_some() {
            store.floor = store.floor.max(record.epoch);
        }
        if let Some(event_type) = HistoryEvent::of(expected, record, change) {
            let sequence = store.history.len() as i64 + 1;
            store.history.push(HistoryRow {
                sequence,
                lease_name: name.clone(),
                transition_count: record.transitions,
                epoch: record.epoch,
                holder_workload_id: record.holder.clone(),
                event_type,
                event_at: WallTime::now(),
                note: record.note.clone(),
            });
        }
        let written = store.observation(name);
        let _ = self.changed.send((name.clone(), written.clone()));
        Ok(PutOutcome::Written(written))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "memory",
            watch: true,
            list: true,
            history: true,
            creates_registers: self.creates_registers,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let store = self.lock();
        let names = store.registers.keys().filter(|name| name.as_str().starts_with(prefix));
        Ok(names.map(|name| (name.clone(), Ok(store.observation(name)))).collect())
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let prefix = prefix.to_owned();
        let changes = BroadcastStream::new(self.changed.subscribe());
        Ok(Box::pin(changes.filter_map(move |change| {
            std::future::ready(match change {
                Ok((name, _)) if !name.as_str().starts_with(&prefix) => None,
                Ok((name, observation)) if observation.record.is_some() => {
                    Some(Hint::Shows(name, observation))
                }
                // A receiver that lagged behind doesn't know what it missed: a hint, too.
                _ => Some(Hint::Changed),
            })
        })))
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let store = self.lock();
        let rows = store.history.iter().rev().filter(|row| row.lease_name == *name).take(limit as usize);
        let mut rows: Vec<_> = rows.cloned().collect();
        rows.reverse();
        Ok(rows)
    }
}
