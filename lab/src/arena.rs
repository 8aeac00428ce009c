//! A store that is started for one run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lease_core::admin::{self, Init};
use lease_core::{LeaseBackend, LeaseName};
use lease_postgres::PostgresConfig;
use lease_testbed::{
    ControlPlane, ControlPlaneOptions, Etcd, EtcdOptions, Identity, Postgres, PostgresOptions, wait_for,
};
use serde_json::json;

use crate::effects::Effects;
use crate::fleet::Fleet;
use crate::store::{Mode, Store};

/// A store that was started for this run alone.
pub(crate) struct Arena {
    /// How to reach it directly.
    pub(crate) store: Store,
    /// The server, if there is one.
    pub(crate) server: Option<Server>,
    /// This program, which can also play an outsider.
    pub(crate) program: PathBuf,
}

/// A server that was started for a run.
pub(crate) enum Server {
    Postgres(Box<Postgres>),
    Etcd(Box<Etcd>),
    /// And who the actors are to it.
    K8s(Box<(ControlPlane, Identity)>),
}

/// A few more than any run needs.
const CONNECTIONS: u32 = 400;

impl Arena {
    /// Starts it, with all tables and the registers of `leases`.
    pub(crate) async fn start(
        mode: Mode,
        fleet: &Fleet,
        leases: &[LeaseName],
        ttl: Duration,
    ) -> anyhow::Result<Self> {
        let (store, server) = match mode {
            Mode::Sqlite => {
                let path = |name: &str| fleet.path(name).display().to_string();
                (Store { mode, leases: path("leases.sqlite"), effects: path("effects.sqlite") }, None)
            }
            Mode::Postgres => {
                // A stopped client that was just connecting would hold up the server's end for a minute.
                let options = PostgresOptions::default()
                    .max_connections(CONNECTIONS)
                    .setting("authentication_timeout", "3s");
                let server = Postgres::start(options).await?;
                lease_postgres::migrate(&PostgresConfig::new(&server.url())?).await?;
                (
                    Store { mode, leases: server.url(), effects: server.url() },
                    Some(Server::Postgres(Box::new(server))),
                )
            }
            Mode::Etcd => {
                let cluster = Etcd::start(EtcdOptions::default().nodes(3).fsync(true)).await?;
                let endpoints = cluster.endpoints().join(",");
                let store = Store { mode, leases: endpoints.clone(), effects: endpoints };
                (store, Some(Server::Etcd(Box::new(cluster))))
            }
            Mode::K8s => {
                let plane = ControlPlane::start(ControlPlaneOptions::default().fsync(true)).await?;
                plane.access().create_namespace("lab").await?;
                let verbs = ["get", "list", "watch", "update", "create"];
                let rules =
                    json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs}]);
                let identity = plane.access().create_identity("lab", "worker", rules).await?;
                let leases = identity.kubeconfig().display().to_string();
                let effects = fleet.path("effects.sqlite").display().to_string();
                (Store { mode, leases, effects }, Some(Server::K8s(Box::new((plane, identity)))))
            }
        };
        Effects::create(&store).await?;
        let backend = store.connector()?.connect().await?;
        for lease in leases {
            admin::init(&*backend, lease, Init { new: true, above: 0, max_ttl: ttl }).await?;
        }
        Ok(Self { store, server, program: fleet.program().clone() })
    }

    /// A backend of our own, once the store answers.
    pub(crate) async fn backend(&self) -> anyhow::Result<Arc<dyn LeaseBackend>> {
        let connector = self.store.connector()?;
        wait_for("the store answers", Duration::from_secs(60), async || connector.connect().await).await
    }
}
