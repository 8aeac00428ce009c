//! The register: `observe`, one linearizable read, and `put_if`, one Txn.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, ResponseHeader, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse,
};
use lease_core::{
    BackendError, Capabilities, Change, Connector, Hints, HistoryEvent, HistoryRow, LeaseBackend, LeaseName,
    Lineage, Listed, Observation, PutOutcome, Record, WallTime,
};
use tokio::time::Instant;

use crate::config::EtcdConfig;
use crate::connection::{Connections, LONGEST_ANSWER, Lent, Opened};
use crate::keys::{Keys, Part, Values};
use crate::{error, watch};

/// The number of transitions in a lease's history.
const TRANSITIONS_KEPT: u64 = 1000;

/// etcd as a lease store.
pub struct Etcd {
    connections: Connections,
}

/// Connects an [`Etcd`] backend on the lease thread; see [`Etcd::connector`].
#[derive(Clone, Debug)]
pub struct EtcdConnector {
    config: EtcdConfig,
}

impl Etcd {
    /// For the elector. Nothing is opened yet.
    pub fn connector(config: EtcdConfig) -> EtcdConnector {
        EtcdConnector { config }
    }

    /// Opens the store on the present tokio runtime.
    ///
    /// # Errors
    /// - refused, and the message says what to do: a user or a certificate that etcd doesn't take, a certificate of
    ///   etcd's that isn't trusted, a missing permission, a file that can't be read;
    /// - not applied, and worth trying again: no node answers a linearizable read.
    ///
    /// Cancellation safe.
    pub async fn connect(config: EtcdConfig) -> Result<Self, BackendError> {
        Self::connector(config).open().await
    }

    fn config(&self) -> &EtcdConfig {
        self.connections.config()
    }

    /// When a call that begins now has taken too long.
    fn time_is_up(&self) -> Instant {
        Instant::now() + self.config().call_timeout
    }

    /// Limits a call, which gives up its connection unless it is answered.
    async fn until<T>(
        &self,
        time_is_up: Instant,
        out_of_time: impl FnOnce(String) -> BackendError,
        what: &str,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let limit = self.config().call_timeout;
        let done = tokio::time::timeout_at(time_is_up, call).await;
        done.unwrap_or_else(|_| Err(out_of_time(format!("{what}: no answer within {limit:?}"))))
    }

    /// A linearizable read, and the connection that it came by.
    async fn read(
        &self,
        what: &str,
        key: String,
        options: GetOptions,
    ) -> Result<(Vec<KeyValue>, Standing), BackendError> {
        let read = async {
            let lent = self.connections.take().await?;
            let mut kv = lent.opened.client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
            let answer = kv.get(key, Some(options)).await.map_err(|failure| error::of_read(what, &failure));
            let judged = answer.and_then(|mut answer| {
                let standing = standing(answer.header(), &lent.opened);
                Ok((answer.take_kvs(), standing.map_err(BackendError::not_applied)?))
            });
            settle(lent, judged)
        };
        self.until(self.time_is_up(), BackendError::not_applied, what, read).await
    }

    async fn transact(&self, what: &str, lent: Lent, txn: Txn) -> Result<TxnAnswer, BackendError> {
        let mut client = lent.opened.client.kv_client();
        let answer = client.txn(txn).await.map_err(|failure| error::of_write(what, &failure));
        let judged = answer.and_then(|answer| {
            // A connection belongs to one cluster: another cluster's register is a different one.
            let standing = standing(answer.header(), &lent.opened).map_err(BackendError::unknown)?;
            let found = answer.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(mut found) => Some(found.take_kvs()),
                _ => None,
            });
            Ok(TxnAnswer { succeeded: answer.succeeded(), found: found.unwrap_or_default(), standing })
        });
        settle(lent, judged)
    }

    fn observation(
        &self,
        name: &LeaseName,
        found: &[KeyValue],
        standing: &Standing,
    ) -> Result<Observation, BackendError> {
        let mut values = Values::default();
        for pair in found {
            if let Some((_, part)) = self.config().keys.parse(pair.key()) {
                values.set(name, part, pair.value())?;
            }
        }
        values.observation(name, standing.lineage.clone(), standing.floor)
    }
}

/// The header of every answer.
struct Standing {
    lineage: Lineage,
    floor: u64,
}

fn standing(header: Option<&ResponseHeader>, opened: &Opened) -> Result<Standing, String> {
    let header = header.ok_or("an answer without a header")?;
    if header.cluster_id() != opened.cluster {
        return Err(format!(
            "an answer of cluster {:x} on a connection to cluster {:x}: what stands in between leads to two clusters; \
             name the nodes of one",
            header.cluster_id(),
            opened.cluster
        ));
    }
    let floor = u64::try_from(header.revision()).map_err(|_| "a revision below zero".to_owned())?;
    Ok(Standing { lineage: opened.lineage(), floor })
}

struct TxnAnswer {
    succeeded: bool,
    found: Vec<KeyValue>,
    standing: Standing,
}

/// An answered call leaves its connection for the next one; a failed one gives it up.
fn settle<T>(lent: Lent, judged: Result<T, BackendError>) -> Result<T, BackendError> {
    match &judged {
        Ok(_) => lent.keep(),
        Err(_) => lent.give_up(),
    }
    judged
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("config", self.config()).finish()
    }
}

impl EtcdConnector {
    async fn open(&self) -> Result<Etcd, BackendError> {
        let connections = Connections::new(self.config.clone());
        connections.take().await?.keep();
        Ok(Etcd { connections })
    }
}

#[async_trait]
impl Connector for EtcdConnector {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(self.open().await?))
    }
}

#[async_trait]
impl LeaseBackend for Etcd {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let key = self.config().keys.lease(name);
        let what = format!("reading lease {name}");
        let (found, standing) = self.read(&what, key, GetOptions::new().with_prefix()).await?;
        self.observation(name, &found, &standing)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let keys = &self.config().keys;
        let Some(seen) = Values::seen_by(expected)? else {
            return Ok(PutOutcome::Conflict(self.observe(name).await?));
        };
        let new = Values::of(record);
        let (term, beat) = (keys.part(name, Part::Term), keys.part(name, Part::Beat));
        let mut writes = vec![TxnOp::put(beat.as_str(), new.beat.clone().unwrap_or_default(), None)];
        if seen.term != new.term {
            writes.push(TxnOp::put(term.as_str(), new.term.clone().unwrap_or_default(), None));
        }
        if let Some(event) = HistoryEvent::of(expected, record, change) {
            writes.extend(remember(keys, name, record, event));
        }
        let look = TxnOp::get(keys.lease(name), Some(GetOptions::new().with_prefix()));
        let txn = Txn::new()
            .when([is_still(&term, seen.term.as_deref()), is_still(&beat, seen.beat.as_deref())])
            .and_then(writes)
            .or_else([look]);

        let what = format!("writing lease {name}");
        let time_is_up = self.time_is_up();
        let lent = self.until(time_is_up, BackendError::not_applied, &what, self.connections.take()).await?;
        if lent.opened.lineage() != expected.lineage {
            lent.keep();
            return Ok(PutOutcome::Conflict(self.observe(name).await?));
        }
        let sent = self.transact(&what, lent, txn);
        let answer = self.until(time_is_up, BackendError::unknown, &what, sent).await?;
        if !answer.succeeded {
            return Ok(PutOutcome::Conflict(self.observation(name, &answer.found, &answer.standing)?));
        }
        let Standing { lineage, floor } = answer.standing;
        Ok(PutOutcome::Written(Observation {
            record: Some(record.clone()),
            lineage,
            floor,
            version: new.version(),
        }))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "etcd",
            watch: true,
            list: true,
            history: true,
            creates_registers: false,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let key = format!("{}{prefix}", self.config().keys.leases());
        let (found, standing) = self.read("listing leases", key, GetOptions::new().with_prefix()).await?;
        let mut registers: BTreeMap<LeaseName, Vec<KeyValue>> = BTreeMap::new();
        for pair in found {
            if let Some((name, _)) = self.config().keys.parse(pair.key()) {
                registers.entry(name).or_default().push(pair);
            }
        }
        let read = registers.into_iter().map(|(name, found)| {
            let observation = self.observation(&name, &found, &standing);
            (name, observation)
        });
        Ok(read.filter(|(_, seen)| !matches!(seen, Ok(seen) if seen.record.is_none())).collect())
    }

    /// On a connection of its own. Shows every write, beats included.
    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        watch::hints(self.config(), prefix).await
    }

    /// The last 1,000 transitions at most.
    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let what = format!("reading the history of lease {name}");
        let newest = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(i64::from(limit));
        if limit == 0 {
            return Ok(Vec::new()); // to etcd, 0 is no limit
        }
        let (found, _) = self.read(&what, self.config().keys.history(name), newest).await?;
        let row = |pair: &KeyValue| {
            let row: Result<HistoryRow, _> = serde_json::from_slice(pair.value());
            let row = row.map_err(|error| BackendError::not_applied(format!("{what}: {error}")))?;
            Ok(HistoryRow { sequence: pair.mod_revision(), ..row })
        };
        found.iter().rev().map(row).collect()
    }
}

/// The compare that a key still has the value that was seen, or is still absent.
fn is_still(key: &str, seen: Option<&str>) -> Compare {
    match seen {
        Some(value) => Compare::value(key, CompareOp::Equal, value),
        None => Compare::version(key, CompareOp::Equal, 0),
    }
}

/// The operations that add a history row, ordered by its revision, and delete the oldest rows.
fn remember(keys: &Keys, name: &LeaseName, record: &Record, event: HistoryEvent) -> [TxnOp; 2] {
    let row = HistoryRow {
        sequence: 0,
        lease_name: name.clone(),
        transition_count: record.transitions,
        epoch: record.epoch,
        holder_workload_id: record.holder.clone(),
        event_type: event,
        event_at: WallTime::now(),
        note: record.note.clone(),
    };
    let row = serde_json::to_string(&row).expect("a row is JSON");
    let history = keys.history(name);
    let key = |transitions: u64| format!("{history}{transitions:020}");
    let kept_from = key(record.transitions.saturating_sub(TRANSITIONS_KEPT));
    [
        TxnOp::put(format!("{}-{}", key(record.transitions), record.tag), row, None),
        TxnOp::delete(history.as_str(), Some(DeleteOptions::new().with_range(kept_from))),
    ]
}
