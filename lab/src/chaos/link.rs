//! What stands between an actor and its store, so that it can be broken.

use std::sync::Arc;
use std::time::Duration;

use lease_testbed::{Direction, Proxy};

use crate::arena::Server;
use crate::store::Store;

/// One actor's connections: those of its lease and those of its effects.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<[Proxy]>);

impl Link {
    /// Puts itself in front of a server's store. Returns how to reach the store through it.
    pub(super) fn before(store: &Store, server: &Server) -> anyhow::Result<(Self, Store)> {
        let (proxies, leases, effects) = match server {
            Server::Postgres(server) => {
                let proxy = Proxy::postgres(server.addr())?;
                let (leases, effects) = (proxy.url(&store.leases)?, proxy.url(&store.effects)?);
                (vec![proxy], leases, effects)
            }
            Server::Etcd(cluster) => {
                let members = cluster.members().iter();
                let proxies =
                    members.map(|member| Proxy::tcp(member.addr())).collect::<anyhow::Result<Vec<_>>>()?;
                let urls: Vec<_> = proxies.iter().map(|proxy| format!("http://{}", proxy.addr())).collect();
                (proxies, urls.join(","), urls.join(","))
            }
            // By TLS, as in any cluster. The effects are in a file.
            Server::K8s(server) => {
                let (plane, identity) = &**server;
                let proxy = Proxy::tcp(plane.addr())?;
                let kubeconfig = identity.kubeconfig_through(proxy.addr())?;
                (vec![proxy], kubeconfig.display().to_string(), store.effects.clone())
            }
        };
        Ok((Self(proxies.into()), Store { leases, effects, ..store.clone() }))
    }

    /// Ends all connections at once.
    pub(super) async fn cut(&self) {
        for proxy in self.0.iter() {
            proxy.cut().await;
        }
    }

    /// Carries nothing more, in either direction, and closes nothing.
    pub(super) fn hold(&self) {
        self.0.iter().for_each(Proxy::stall);
    }

    /// Delivers what was held, late, and carries on.
    pub(super) fn deliver(&self) {
        self.0.iter().for_each(Proxy::heal);
    }

    /// Carries everything this much later.
    pub(super) fn delay(&self, by: Duration) {
        for proxy in self.0.iter() {
            proxy.set_delay(Direction::ToServer, by / 2);
            proxy.set_delay(Direction::ToClient, by / 2);
        }
    }
}
