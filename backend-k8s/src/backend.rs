//! The register: `observe` by GET, `put_if` by a PUT that carries uid and resourceVersion (K-1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use lease_core::{
    BackendError, Capabilities, Change, Connector, Hints, LeaseBackend, LeaseName, Listed, Observation,
    PutOutcome, Record,
};

use crate::api::{self, Api};
use crate::config::K8sConfig;
use crate::error::RequestFailure;
use crate::lease::{self, ABSENT};
use crate::watch;

/// Kubernetes as a lease store.
pub struct K8s {
    api: Arc<Api>,
}

/// Connects a [`K8s`] backend on the lease thread; see [`K8s::connector`].
#[derive(Clone, Debug)]
pub struct K8sConnector {
    config: K8sConfig,
}

impl K8s {
    /// For the elector. Nothing is opened yet.
    pub fn connector(config: K8sConfig) -> K8sConnector {
        K8sConnector { config }
    }

    /// Reads the credentials and shows them to the API server, on the present tokio runtime.
    ///
    /// # Errors
    /// - refused, and the message says what to do: no usable kubeconfig or service account, credentials that the API
    ///   server refuses, a certificate of its that isn't trusted;
    /// - not applied, and worth trying again: no connection.
    ///
    /// Whether the service account may use a Lease shows with the first call that names one.
    ///
    /// Cancellation safe.
    pub async fn connect(config: K8sConfig) -> Result<Self, BackendError> {
        let api = Api::connect(config).await?;
        // Everybody may ask this, and it makes the connection that the first call will use.
        match api.call(api::request("GET", "/version".to_owned(), None)?).await {
            Err(failure) if failure.status().is_none_or(|status| status == StatusCode::UNAUTHORIZED) => {
                Err(failure.of_read("connecting"))
            }
            Ok(_) | Err(_) => Ok(Self { api: Arc::new(api) }),
        }
    }

    /// A PUT of `record` over the Lease that `expected` shows, or the reason why it was not made.
    async fn put(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
    ) -> Result<Option<Observation>, BackendError> {
        let what = format!("writing lease {name}");
        let unknown = |failure: RequestFailure| failure.of_write(&what);
        let base = lease::of_version(expected)?;
        let body = lease::written(name, base, expected.record.as_ref(), record)?;
        let request = api::request("PUT", self.api.path(name), Some(&body))?;
        let answer = match self.api.call(request).await {
            Ok(answer) => answer,
            Err(failure) if stands_in_the_way(&failure) => return Ok(None),
            Err(failure) => return Err(failure.of_write(&what)),
        };
        let shown = answer.lease().map_err(unknown)?;
        if shown.metadata.resource_version == body.metadata.resource_version {
            // The API server answers an identical PUT like any other, and does nothing.
            return Err(BackendError::not_applied(format!("{what}: this very record was written before")));
        }
        let written = lease::observation(shown).map_err(|error| unknown(RequestFailure::lost(error)))?;
        if answer.status == StatusCode::CREATED {
            // K-1: it had been deleted, and a register that is gone ends the term. What this has created is nobody's:
            // it names another lineage.
            return Ok(Some(lease::absence(written.floor)));
        }
        believe(&what, record, written).map(Some)
    }

    /// A new Lease, or the reason why it was not made.
    async fn create(&self, name: &LeaseName, record: &Record) -> Result<Option<Observation>, BackendError> {
        let what = format!("creating lease {name}");
        let request = api::request("POST", self.api.collection(), Some(&lease::new(name, record)?))?;
        let answer = match self.api.call(request).await {
            Ok(answer) => answer,
            Err(failure) if failure.status() == Some(StatusCode::CONFLICT) => return Ok(None),
            Err(failure) => return Err(failure.of_write(&what)),
        };
        let unknown = |failure: RequestFailure| failure.of_write(&what);
        let created = lease::observation(answer.lease().map_err(unknown)?);
        let created = believe(&what, record, created.map_err(|error| unknown(RequestFailure::lost(error)))?)?;
        if record.lineage.0 != ABSENT {
            return Ok(Some(created));
        }
        // Its uid is the lineage, which nobody knows before it is there. Until it is stamped, and if it never is, it
        // stands under a foreign stamp, which is waited out (T-3).
        let stamped = Record { lineage: created.lineage.clone(), ..record.clone() };
        let stamped = self.put(name, &created, &stamped).await;
        Ok(Some(stamped.ok().flatten().filter(|stamped| stamped.record.is_some()).unwrap_or(created)))
    }
}

/// Did another writer come first, or is the Lease gone?
fn stands_in_the_way(failure: &RequestFailure) -> bool {
    matches!(failure.status(), Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND))
}

/// Checks that the answer to a write shows what was written.
fn believe(what: &str, record: &Record, written: Observation) -> Result<Observation, BackendError> {
    if written.tag() == Some(record.tag) {
        return Ok(written);
    }
    Err(BackendError::unknown(format!(
        "{what}: the API server stored a different record than was sent; exempt these Leases from whatever changes \
         them (a mutating admission webhook?)"
    )))
}

impl fmt::Debug for K8s {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("K8s")
            .field("namespace", &self.api.namespace)
            .field("config", &self.api.config)
            .finish()
    }
}

#[async_trait]
impl Connector for K8sConnector {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(K8s::connect(self.config.clone()).await?))
    }
}

#[async_trait]
impl LeaseBackend for K8s {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let what = format!("reading lease {name}");
        match self.api.call(api::request("GET", self.api.path(name), None)?).await {
            Ok(answer) => lease::observation(answer.lease().map_err(|failure| failure.of_read(&what))?),
            // An absence has no resourceVersion; a list of it has, and nothing else of the list counts: it comes from the
            // API server's cache, which goes on showing what an etcd that was restored beneath it has forgotten.
            Err(failure) if failure.status() == Some(StatusCode::NOT_FOUND) => {
                let (_, version) = self.api.leases(Some(name)).await?;
                Ok(lease::absence(version))
            }
            Err(failure) => Err(failure.of_read(&what)),
        }
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        _change: Change,
    ) -> Result<PutOutcome, BackendError> {
        if !lease::is_as_read(expected)? {
            return Ok(PutOutcome::Conflict(self.observe(name).await?));
        }
        let written = match expected.record {
            Some(_) => self.put(name, expected, record).await?,
            None => self.create(name, record).await?,
        };
        match written {
            Some(written) if written.record.is_some() => Ok(PutOutcome::Written(written)),
            Some(gone) => Ok(PutOutcome::Conflict(gone)),
            None => {
                let found = self.observe(name).await?;
                if found.record.is_some() && found.version == expected.version {
                    // A 409 for another reason than the one that a read can show.
                    return Err(BackendError::not_applied(format!(
                        "writing lease {name}: the API server reports a conflict, but the Lease shows none"
                    )));
                }
                Ok(PutOutcome::Conflict(found))
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "k8s",
            watch: true,
            list: true,
            history: false,
            creates_registers: false,
            ttl_granularity: Duration::from_secs(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let (leases, version) = self.api.leases(None).await?;
        let mut found = Vec::new();
        for lease in leases {
            let name = lease.metadata.name.clone().unwrap_or_default();
            let Ok(name) = LeaseName::new(name) else { continue };
            if !name.as_str().starts_with(prefix) {
                continue;
            }
            let seen = lease::observation(lease).map(|seen| Observation { floor: version, ..seen });
            found.push((name, seen));
        }
        Ok(found)
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        watch::hints(self.api.clone(), prefix).await
    }
}

#[cfg(test)]
mod tests {
    use http::Response;
    use lease_core::internal::writes::{self, Fresh};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_only_the_list_shows_is_absent() {
        let stale = json!({
            "metadata": {"resourceVersion": "5000"},
            "items": [{
                "metadata": {"name": "one", "uid": "u", "resourceVersion": "4000"},
                "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 15},
            }],
        });
        let api = Api::over(move |request| {
            let (status, body) = match request.uri().query() {
                None => (StatusCode::NOT_FOUND, json!({"kind": "Status", "code": 404})),
                Some(_) => (StatusCode::OK, stale.clone()),
            };
            let answer = Response::builder().status(status).body(body.to_string().into_bytes().into());
            std::future::ready(Ok(answer.unwrap()))
        });
        let seen = K8s { api: Arc::new(api) }.observe(&LeaseName::new("one").unwrap()).await.unwrap();
        assert_eq!(seen, lease::absence(5000));
    }

    /// K-1: no API server answers so to a PUT with uid and resourceVersion. If one does, the register was gone.
    #[tokio::test]
    async fn a_write_that_created_the_lease_shows_the_register_as_gone() {
        let seen = json!({
            "metadata": {"name": "one", "uid": "old", "resourceVersion": "5"},
            "spec": {"holderIdentity": "", "leaseTransitions": 0},
        });
        let seen = lease::observation(serde_json::from_value(seen).unwrap()).unwrap();
        let api = Api::over(|request| async {
            use http_body_util::BodyExt;
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let mut created: serde_json::Value = serde_json::from_slice(&sent).unwrap();
            assert_eq!(
                (&created["metadata"]["uid"], &created["metadata"]["resourceVersion"]),
                (&json!("old"), &json!("5"))
            );
            created["metadata"]["uid"] = json!("new");
            created["metadata"]["resourceVersion"] = json!("9");
            let answer = Response::builder().status(StatusCode::CREATED);
            Ok(answer.body(created.to_string().into_bytes().into()).unwrap())
        });
        let backend = K8s { api: Arc::new(api) };
        let (name, fresh) = (LeaseName::new("one").unwrap(), Fresh::random());
        let next = writes::renew(&seen, seen.record.as_ref().unwrap(), &fresh);
        let Ok(PutOutcome::Conflict(shown)) = backend.put_if(&name, &seen, &next, Change::Renew).await else {
            panic!("it was taken for a renewal");
        };
        assert_eq!((shown.record, shown.floor), (None, 9));
    }
}
