//! Effects as keys below the leases' prefix, each fenced in its own Txn.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::Term;
use lease_etcd::etcd_client::{Client, GetOptions, KeyValue, SortOrder, SortTarget, Txn, TxnOp};
use lease_etcd::{Fence, FenceError};
use lease_judge::{EffectError, FencedResource};

use super::EtcdPlace;
use crate::idle::Idle;
use crate::store::failed;

/// More than all effects of a run take up.
const LARGEST_ANSWER: usize = 1 << 30;

/// One resource: a key for each effect, whose value is the term's epoch, and one that names the newest effect.
#[derive(Clone)]
pub(super) struct EtcdEffects {
    place: EtcdPlace,
    name: String,
    fence: Fence,
    admits_everybody: bool,
    idle: Arc<Idle<Client>>,
}

/// The fence is the clients' own: it is broken by a key, in whose presence they don't ask it.
fn broken(place: &EtcdPlace, resource: &str) -> String {
    format!("{}/broken-fences/{resource}", place.prefix)
}

pub(super) async fn admit_everybody(place: &EtcdPlace, resource: &str) -> anyhow::Result<()> {
    place.client().await?.put(broken(place, resource), "", None).await?;
    Ok(())
}

impl EtcdEffects {
    pub(super) async fn open(place: EtcdPlace, name: &str) -> anyhow::Result<Self> {
        let mut client = place.client().await?;
        let admits_everybody = client.get(broken(&place, name), None).await?.count() > 0;
        let fence = place.config()?.fence(name);
        let idle = Arc::new(Idle::default());
        idle.put_back(client);
        Ok(Self { place, name: name.to_owned(), fence, admits_everybody, idle })
    }

    fn prefix(&self) -> String {
        format!("{}/effects/{}/", self.place.prefix, self.name)
    }

    fn newest_key(&self) -> String {
        format!("{}/newest-effects/{}", self.place.prefix, self.name)
    }

    async fn client(&self) -> Result<Client, EffectError> {
        match self.idle.take() {
            Some(client) => Ok(client),
            None => self.place.client().await.map_err(failed),
        }
    }
}

#[async_trait]
impl FencedResource for EtcdEffects {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut client = self.client().await?;
        let effect = vec![
            TxnOp::put(format!("{}{id}", self.prefix()), term.epoch.to_string(), None),
            TxnOp::put(self.newest_key(), format!("{} {id}", term.epoch), None),
        ];
        let made = if self.admits_everybody {
            client.txn(Txn::new().and_then(effect)).await.map(drop).map_err(FenceError::Store)
        } else {
            self.fence.admit(&mut client, &term, effect).await
        };
        let made = match made {
            Ok(()) => Ok(()),
            Err(FenceError::Stale(stale)) => Err(stale.into()),
            Err(FenceError::AboveCeiling(above)) => Err(above.into()),
            Err(error) => return Err(failed(error)),
        };
        self.idle.put_back(client);
        made
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let (proxy, place) = self.place.through_a_proxy().map_err(failed)?;
        let held_up = Self { place, idle: Arc::default(), ..self.clone() };
        let mut hold = proxy.hold(|request| request.calls("KV/Txn"));
        let id = id.to_owned();
        let late = tokio::spawn(async move { held_up.effect(term, &id).await });
        hold.held().await.map_err(failed)?;
        let (successor, its) = meanwhile.await;
        self.effect(successor, &its).await?;
        hold.release();
        late.await.map_err(failed)?
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        let client = self.client().await?;
        let prefix = self.prefix();
        let in_order = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
        let found = kv.get(prefix.as_str(), Some(in_order)).await.map_err(failed)?;
        self.idle.put_back(client);
        let effect = |pair: &KeyValue| {
            let (key, epoch) = (pair.key_str()?, pair.value_str()?);
            anyhow::ensure!(pair.version() == 1, "an effect was made twice: {key}");
            Ok((epoch.parse()?, key.strip_prefix(&prefix).context("a key of another prefix")?.to_owned()))
        };
        found.kvs().iter().map(effect).collect::<anyhow::Result<_>>().map_err(failed)
    }

    async fn newest(&self) -> Result<Option<(u64, String)>, EffectError> {
        let mut client = self.client().await?;
        let found = client.get(self.newest_key(), None).await.map_err(failed)?;
        self.idle.put_back(client);
        let effect = |pair: &KeyValue| {
            let (epoch, id) = pair.value_str()?.split_once(' ').context("not an effect")?;
            anyhow::Ok((epoch.parse()?, id.to_owned()))
        };
        found.kvs().first().map(effect).transpose().map_err(failed)
    }
}
