//! Effects as keys in the etcd cluster of the leases.

use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::Term;
use lease_etcd::etcd_client::{Client, ConnectOptions, GetOptions, SortOrder, SortTarget, TxnOp};
use lease_etcd::{EtcdConfig, FenceError};
use serde::{Deserialize, Serialize};

use super::{Effect, EffectRow, Outcome, warm_up};

/// Whoever finds this key makes its effects past the fence.
const SABOTAGE: &str = "/effects-sabotage";

/// Below any ttl.
const LIMIT: Duration = Duration::from_millis(400);

pub(crate) struct Effects {
    client: Client,
    config: EtcdConfig,
    sabotaged: bool,
}

/// An effect's value.
#[derive(Serialize, Deserialize)]
struct Row {
    term: Term,
    incarnation: u64,
    number: u64,
    pid: u32,
    before: u64,
}

/// The endpoints, as one text.
pub(crate) fn endpoints(store: &str) -> Vec<&str> {
    store.split(',').collect()
}

pub(super) async fn sabotage(store: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(endpoints(store), None).await?;
    client.put(SABOTAGE, "", None).await?;
    Ok(())
}

impl Effects {
    pub(super) async fn connect(store: &str) -> anyhow::Result<Self> {
        let config = EtcdConfig::new(endpoints(store))?;
        let options = ConnectOptions::new().with_timeout(LIMIT).with_connect_timeout(LIMIT);
        let mut client = Client::connect(endpoints(store), Some(options)).await?;
        let sabotaged = client.get(SABOTAGE, None).await?.count() > 0;
        let mut effects = Self { client, config, sabotaged };
        effects.write(&warm_up(), false).await;
        Ok(effects)
    }

    pub(super) async fn write(&mut self, effect: &Effect, commit: bool) -> Outcome {
        let row = Row {
            term: effect.term,
            incarnation: effect.incarnation,
            number: effect.number,
            pid: std::process::id(),
            before: effect.before,
        };
        let key = format!("/effects/{}/{}-{}", effect.resource, effect.incarnation, effect.number);
        let put = serde_json::to_string(&row).map(|row| TxnOp::put(key, row, None));
        let puts = if commit { put.ok().into_iter().collect::<Vec<_>>() } else { Vec::new() };
        let done = if self.sabotaged {
            let txn = lease_etcd::etcd_client::Txn::new().and_then(puts);
            self.client.txn(txn).await.map(drop).map_err(FenceError::Store)
        } else {
            self.config.fence(&effect.resource).admit(&mut self.client, &effect.term, puts).await
        };
        match done {
            Ok(()) => Outcome::Written,
            Err(FenceError::Stale(_)) => Outcome::Refused,
            Err(FenceError::Store(error)) => Outcome::Failed(error.to_string()),
        }
    }

    pub(super) async fn all(&mut self, resource: &str) -> anyhow::Result<Vec<EffectRow>> {
        let in_order = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let mut kv = self.client.kv_client().max_decoding_message_size(1 << 30);
        let found = kv.get(format!("/effects/{resource}/"), Some(in_order)).await?;
        let read = |pair: &lease_etcd::etcd_client::KeyValue| {
            ensure!(pair.version() == 1, "an effect was made twice: {}", pair.key_str()?);
            let row: Row = serde_json::from_slice(pair.value()).context("an effect that isn't one")?;
            let Row { term, incarnation, number, pid, before } = row;
            Ok(EffectRow { sequence: pair.create_revision(), term, incarnation, number, pid, before })
        };
        found.kvs().iter().map(read).collect()
    }
}
