//! Hints from a watch, over a connection of their own.

use std::collections::VecDeque;

use etcd_client::{Event, EventType, WatchOptions, WatchStream};
use futures::stream;
use lease_core::{BackendError, Hint, Hints, Lineage};

use crate::config::EtcdConfig;
use crate::connection::{LONGEST_ANSWER, open_for_watch};
use crate::error::of_read;
use crate::keys::{Keys, Part, Values};

struct Watch {
    keys: Keys,
    lineage: Lineage,
    events: WatchStream,
    waiting: VecDeque<Hint>,
}

/// Ends when the connection does, when its node has lost the leader, or when it fell behind a compaction.
pub(crate) async fn hints(config: &EtcdConfig, prefix: &str) -> Result<Hints, BackendError> {
    let opened = open_for_watch(config).await?;
    let key = format!("{}{prefix}", config.keys.leases());
    let live = async {
        let failed = |failure| of_read("watching", &failure);
        let mut client = opened.client.watch_client().max_decoding_message_size(LONGEST_ANSWER);
        let mut events = client.watch(key, Some(WatchOptions::new().with_prefix())).await.map_err(failed)?;
        match events.message().await.map_err(failed)? {
            Some(first) if first.created() && !first.canceled() => Ok(events),
            Some(first) => Err(BackendError::not_applied(format!("watching: {}", first.cancel_reason()))),
            None => Err(BackendError::not_applied("watching: etcd has ended the watch")),
        }
    };
    let limit = config.call_timeout;
    let events = tokio::time::timeout(limit, live)
        .await
        .map_err(|_| BackendError::not_applied(format!("watching: no answer within {limit:?}")))??;
    let watch =
        Watch { keys: config.keys.clone(), lineage: opened.lineage(), events, waiting: VecDeque::new() };
    Ok(Box::pin(stream::unfold(watch, Watch::next)))
}

impl Watch {
    /// At most one answer's events wait here: etcd holds the rest back.
    async fn next(mut self) -> Option<(Hint, Self)> {
        loop {
            if let Some(hint) = self.waiting.pop_front() {
                return Some((hint, self));
            }
            let answer = self.events.message().await.ok()??;
            if answer.canceled() {
                return None;
            }
            let hints: Vec<Hint> = answer.events().iter().filter_map(|event| self.hint(event)).collect();
            self.waiting.extend(hints);
        }
    }

    /// Every write puts the beat, and the beat has the whole record. The term key adds nothing, unless somebody
    /// changed it by hand, which the next write's compare finds.
    fn hint(&self, event: &Event) -> Option<Hint> {
        let pair = event.kv()?;
        let (name, part) = self.keys.parse(pair.key())?;
        match (event.event_type(), part) {
            (EventType::Put, Part::Term) => None,
            (EventType::Put, Part::Beat) => Some(self.shown(name, pair).unwrap_or(Hint::Changed)),
            (EventType::Delete, _) => Some(Hint::Changed),
        }
    }

    fn shown(&self, name: lease_core::LeaseName, pair: &etcd_client::KeyValue) -> Option<Hint> {
        let mut values = Values::default();
        values.set(&name, Part::Beat, pair.value()).ok()?;
        let floor = u64::try_from(pair.mod_revision()).ok()?;
        let mut observation = values.clone().observation(&name, self.lineage.clone(), floor).ok()?;
        // The term key as the same Txn left it.
        values.term = Values::of(observation.record.as_ref()?).term;
        observation.version = values.version();
        Some(Hint::Shows(name, observation))
    }
}
