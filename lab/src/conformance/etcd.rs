//! The suite on etcd, below a prefix of its own: on a cluster that somebody runs, or on one that is started for it.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_conformance::{EffectError, Facility, FencedResource, Harness, Missing};
use lease_core::{BackendError, LeaseBackend, LeaseName, Term};
use lease_etcd::etcd_client::{Client, DeleteOptions, GetOptions, KeyValue, SortOrder, SortTarget, TxnOp};
use lease_etcd::{Etcd, EtcdConfig, FenceError};
use lease_testbed::{ClusterId, EtcdOptions, LostReply, Proxy};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Place, actor, failed};

/// Between two looks at whether anything was written below the prefix after its removal.
const LATE: Duration = Duration::from_millis(200);

/// The cluster to judge, if it isn't one that is started for it.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub(super) struct Named {
    /// etcd: the user that would hold leases; it may read and write below /leasehold-conformance/.
    #[arg(long)]
    etcd_user: Option<String>,
    /// etcd: the file with the user's password.
    #[arg(long)]
    etcd_password_file: Option<PathBuf>,
    /// etcd: the authority of the nodes' certificates.
    #[arg(long)]
    etcd_ca_file: Option<PathBuf>,
    /// etcd: our own certificate, for nodes that ask for one.
    #[arg(long)]
    etcd_cert_file: Option<PathBuf>,
    /// etcd: our certificate's key.
    #[arg(long)]
    etcd_key_file: Option<PathBuf>,
}

/// Where the suite's keys are, as an actor's process is told.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct At {
    endpoints: Vec<String>,
    prefix: String,
    named: Named,
}

/// The harness on them.
pub(super) struct Keys {
    at: At,
    facilities: Vec<Facility>,
    /// What loses replies, kept until the end.
    losing: Mutex<Vec<(Proxy, LostReply)>>,
    /// Started for this, if none was named.
    server: Option<lease_testbed::Etcd>,
}

// === impl At ===

impl At {
    fn config(&self) -> Result<EtcdConfig, BackendError> {
        let refused = |error: lease_core::InvalidSettings| BackendError::refused(error.to_string());
        let mut config = EtcdConfig::new(&self.endpoints)
            .and_then(|config| config.prefix(&self.prefix))
            .map_err(refused)?;
        let named = &self.named;
        if let (Some(user), Some(file)) = (&named.etcd_user, &named.etcd_password_file) {
            config = config.user_with_password_file(user, file);
        }
        if let Some(file) = &named.etcd_ca_file {
            config = config.ca_file(file);
        }
        if let (Some(certificate), Some(key)) = (&named.etcd_cert_file, &named.etcd_key_file) {
            config = config.client_certificate(certificate, key);
        }
        Ok(config)
    }

    /// The first node's address, if what is said to it can be read.
    fn plain_node(&self) -> Option<std::net::SocketAddr> {
        let address = self.endpoints.first()?.strip_prefix("http://")?.trim_end_matches('/');
        std::net::ToSocketAddrs::to_socket_addrs(address).ok()?.next()
    }

    /// The same through a proxy.
    fn through(&self, proxy: &Proxy) -> Self {
        Self { endpoints: vec![format!("http://{}", proxy.addr())], ..self.clone() }
    }

    pub(super) fn open(self) -> Keys {
        self.on(None)
    }

    fn on(self, server: Option<lease_testbed::Etcd>) -> Keys {
        let mut facilities = vec![Facility::Delete, Facility::Processes];
        if self.plain_node().is_some() {
            facilities.extend([Facility::LoseReply, Facility::FencedEffects]);
        }
        if server.is_some() {
            facilities.extend([Facility::Restart, Facility::ChangeLineage]);
        }
        Keys { at: self, facilities, losing: Mutex::default(), server }
    }
}

// === impl Keys ===

impl Keys {
    pub(super) async fn make(endpoints: Option<&str>, named: Named) -> anyhow::Result<Self> {
        anyhow::ensure!(
            named.etcd_user.is_some() == named.etcd_password_file.is_some(),
            "--etcd-user and --etcd-password-file belong together: give both"
        );
        anyhow::ensure!(
            named.etcd_cert_file.is_some() == named.etcd_key_file.is_some(),
            "--etcd-cert-file and --etcd-key-file belong together: give both"
        );
        let prefix = format!("/leasehold-conformance/{:08x}", rand::random::<u32>());
        let keys = match endpoints {
            Some(endpoints) => {
                let endpoints = endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
                At { endpoints, prefix, named }.on(None)
            }
            None => Self::fresh(prefix).await?,
        };
        keys.client().await.context("the cluster to judge does not serve")?;
        if keys.server.is_none() {
            eprintln!("the suite works below {}, and removes that at its end", keys.at.prefix);
        }
        Ok(keys)
    }

    /// On a cluster of its own.
    async fn fresh(prefix: String) -> anyhow::Result<Self> {
        let etcd = lease_testbed::Etcd::start(EtcdOptions::default().fsync(true)).await?;
        let at = At { endpoints: etcd.endpoints(), prefix, named: Named::default() };
        Ok(at.on(Some(etcd)))
    }

    async fn client(&self) -> Result<Client, BackendError> {
        self.at.config()?.client().await
    }
}

#[async_trait]
impl Place for Keys {
    fn harness(self: Arc<Self>) -> Arc<dyn Harness> {
        self
    }

    async fn clean_up(&self) -> anyhow::Result<()> {
        let prefix = format!("{}/", self.at.prefix);
        let remove = async {
            let mut client = self.client().await?;
            let below = || Some(DeleteOptions::new().with_prefix());
            // After Ctrl-C a last write of a case may still be on its way.
            while client.delete(prefix.as_str(), below()).await?.deleted() > 0 {
                tokio::time::sleep(LATE).await;
            }
            anyhow::Ok(())
        };
        remove.await.with_context(|| format!("cannot remove what is below {prefix}: do so by hand"))
    }
}

#[async_trait]
impl Harness for Keys {
    fn name(&self) -> &str {
        "etcd"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Etcd::connect(self.at.config()?).await?))
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn parallel_cases(&self) -> usize {
        8
    }

    fn facilities(&self) -> &[Facility] {
        &self.facilities
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::LoseReply | Facility::FencedEffects => {
                format!("what is said to this cluster is encrypted, so {facility} can't be arranged")
            }
            _ => format!("the etcd harness does not offer {facility} on a cluster that isn't its own"),
        }
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let key = format!("{}/leases/{lease}/", self.at.prefix);
        let mut client = self.client().await.map_err(Missing::because)?;
        let deleted = client.delete(key, Some(DeleteOptions::new().with_prefix())).await;
        deleted.map(drop).map_err(Missing::because)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let keys = Self::fresh(self.at.prefix.clone()).await.map_err(Missing::because)?;
        Ok(Arc::new(keys))
    }

    async fn restart(&self) -> Result<(), Missing> {
        let cluster = self.server.as_ref().ok_or_else(|| self.missing(Facility::Restart))?;
        let restart = async {
            cluster.kill_all().await?;
            cluster.start_all()?;
            cluster.ready().await
        };
        restart.await.map_err(|error| Missing(format!("{error:#}")))
    }

    async fn change_lineage(&self) -> Result<(), Missing> {
        let cluster = self.server.as_ref().ok_or_else(|| self.missing(Facility::ChangeLineage))?;
        let change = async {
            let snapshot = cluster.snapshot().await?;
            cluster.restore(&snapshot, ClusterId::New).await
        };
        change.await.map_err(|error| Missing(format!("{error:#}")))
    }

    async fn connect_losing_the_next_reply(&self) -> Result<Arc<dyn LeaseBackend>, Missing> {
        let node = self.at.plain_node().ok_or_else(|| self.missing(Facility::LoseReply))?;
        let proxy = Proxy::grpc(node).map_err(Missing::because)?;
        let config = self.at.through(&proxy).config().map_err(Missing::because)?;
        let backend = Etcd::connect(config).await.map_err(Missing::because)?;
        let trap = proxy.lose_reply(|request| request.calls("KV/Txn"));
        self.losing.lock().await.push((proxy, trap));
        Ok(Arc::new(backend))
    }

    async fn resource(&self, name: &str) -> Result<Arc<dyn FencedResource>, Missing> {
        Ok(Arc::new(Resource { at: self.at.clone(), name: name.to_owned() }))
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.arg(actor::COMMAND).env(actor::PLACE, actor::Place::Etcd(self.at.clone()).to_json());
        Some(command)
    }
}

/// Effects as keys, with their mark.
#[derive(Clone)]
struct Resource {
    at: At,
    name: String,
}

impl Resource {
    fn effect_keys(&self) -> String {
        format!("{}/effects/{}/", self.at.prefix, self.name)
    }
}

#[async_trait]
impl FencedResource for Resource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let config = self.at.config().map_err(failed)?;
        let mut client = config.client().await.map_err(failed)?;
        let effect = TxnOp::put(format!("{}{id}", self.effect_keys()), term.epoch.to_string(), None);
        match config.fence(&self.name).admit(&mut client, &term, [effect]).await {
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
        let node = self.at.plain_node().ok_or_else(|| failed("what is encrypted can't be held"))?;
        let proxy = Proxy::grpc(node).map_err(failed)?;
        let held_up = Self { at: self.at.through(&proxy), ..self.clone() };
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
        let mut client = self.at.config().map_err(failed)?.client().await.map_err(failed)?;
        let prefix = self.effect_keys();
        let in_order = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let found = client.get(prefix.as_str(), Some(in_order)).await.map_err(failed)?;
        let effect = |pair: &KeyValue| {
            let (key, epoch) = (pair.key_str().map_err(failed)?, pair.value_str().map_err(failed)?);
            Ok((epoch.parse().map_err(failed)?, key.trim_start_matches(&prefix).to_owned()))
        };
        found.kvs().iter().map(effect).collect()
    }
}
