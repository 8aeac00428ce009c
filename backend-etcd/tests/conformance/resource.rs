//! Effects in etcd, fenced in their own Txn.

use std::net::SocketAddr;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, FencedResource};
use lease_core::Term;
use lease_etcd::etcd_client::{Client, GetOptions, SortOrder, SortTarget, TxnOp};
use lease_etcd::{EtcdConfig, Fence, FenceError};
use lease_testbed::Proxy;

#[derive(Clone)]
pub(crate) struct Resource {
    endpoints: Vec<String>,
    name: String,
    fence: Fence,
    /// Where a node is, for a proxy of the resource's own; an actor's process needs none.
    addr: Option<SocketAddr>,
}

fn failed(error: impl std::fmt::Display) -> EffectError {
    EffectError::Failed(error.to_string())
}

impl Resource {
    pub(crate) fn new(
        name: &str,
        config: &EtcdConfig,
        endpoints: Vec<String>,
        addr: Option<SocketAddr>,
    ) -> Self {
        Self { endpoints, name: name.to_owned(), fence: config.fence(name), addr }
    }

    async fn client(&self) -> Result<Client, EffectError> {
        Client::connect(&self.endpoints, None).await.map_err(failed)
    }

    fn effect_keys(&self) -> String {
        format!("/conformance/effects/{}/", self.name)
    }
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let key = format!("{}{id}", self.effect_keys());
        let effect = TxnOp::put(key, term.epoch.to_string(), None);
        match self.fence.admit(&mut self.client().await?, &term, [effect]).await {
            Ok(()) => Ok(()),
            Err(FenceError::Stale(stale)) => Err(stale.into()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let addr = self.addr.ok_or_else(|| failed("only the suite's own process holds effects"))?;
        let proxy = Proxy::grpc(addr).map_err(failed)?;
        let held_up = Self { endpoints: vec![format!("http://{}", proxy.addr())], ..self.clone() };
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
        let prefix = self.effect_keys();
        let in_order = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let found = self.client().await?.get(prefix.as_str(), Some(in_order)).await.map_err(failed)?;
        let effect = |pair: &lease_etcd::etcd_client::KeyValue| {
            let (key, epoch) = (pair.key_str().map_err(failed)?, pair.value_str().map_err(failed)?);
            Ok((epoch.parse().map_err(failed)?, key.trim_start_matches(&prefix).to_owned()))
        };
        found.kvs().iter().map(effect).collect()
    }
}
