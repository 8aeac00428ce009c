//! Calls to the API server: one request, one answer, within a time limit. Nothing is tried twice.

use std::sync::{Mutex, MutexGuard};

use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::client::Body;
use kube::core::{ObjectList, Status, WatchEvent};
use lease_core::{BackendError, LeaseName};

use crate::config::K8sConfig;
use crate::error::RequestFailure;
use crate::lease::{self, SentLease};

/// The Leases of one namespace.
pub(crate) struct Api {
    pub(crate) config: K8sConfig,
    pub(crate) namespace: String,
    /// None after its credentials were refused: the next call makes one with the present credentials, since kube reads
    /// a rotated token only once a minute.
    client: Mutex<Option<Client>>,
}

/// An event of a watch.
pub(crate) type Events = BoxStream<'static, kube::Result<WatchEvent<SentLease>>>;

/// An answer of the API server that isn't an error.
pub(crate) struct ApiAnswer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

impl Api {
    pub(crate) async fn connect(config: K8sConfig) -> Result<Self, BackendError> {
        config.announce();
        let (client, namespace) = config.client().await?;
        Ok(Self { config, namespace, client: Mutex::new(Some(client)) })
    }

    /// The path of one Lease.
    pub(crate) fn path(&self, name: &LeaseName) -> String {
        format!("{}/{name}", self.collection())
    }

    /// The path of all Leases.
    pub(crate) fn collection(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    /// Sends one request and reads its whole answer.
    pub(crate) async fn call(&self, request: Request<Vec<u8>>) -> Result<ApiAnswer, RequestFailure> {
        let answer = async {
            let response = self.open(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(RequestFailure::lost)?;
            Ok(ApiAnswer { status, body: body.to_bytes().into() })
        };
        let limit = self.config.call_limit;
        tokio::time::timeout(limit, answer).await.unwrap_or(Err(RequestFailure::Silent(limit)))
    }

    async fn open(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, RequestFailure> {
        let client = self.client().await?;
        let response = client.send(request.map(Body::from)).await.map_err(RequestFailure::of_sending)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        self.heed(status);
        let retry_after = response.headers().get(http::header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.into_body().collect().await.map_err(RequestFailure::lost)?.to_bytes();
        let told = serde_json::from_slice::<Status>(&body).ok();
        let message = told.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), |told| told.message);
        Err(RequestFailure::Refused {
            status,
            message: message.trim().chars().take(500).collect(),
            retry_after,
        })
    }

    /// A watch's events, as the API server sends them. Resolves when the watch is live. No time limit.
    pub(crate) async fn events(&self, request: Request<Vec<u8>>) -> Result<Events, RequestFailure> {
        let client = self.client().await?;
        match client.request_events(request).await {
            Ok(events) => Ok(events.boxed()),
            Err(kube::Error::Api(told)) => {
                let status = StatusCode::from_u16(told.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                self.heed(status);
                Err(RequestFailure::Refused { status, message: told.message, retry_after: None })
            }
            Err(error) => Err(RequestFailure::of_sending(error)),
        }
    }

    /// All Leases of the namespace, or the one of this name if there is one, and the list's resourceVersion.
    pub(crate) async fn leases(&self, name: Option<&LeaseName>) -> Result<(Vec<Lease>, u64), BackendError> {
        let what = "listing leases";
        let path = self.collection() + &name.map(|name| format!("?{}", selector(name))).unwrap_or_default();
        let answer = self.call(request("GET", path, None)?).await.map_err(|failure| failure.of_read(what))?;
        let list: ObjectList<SentLease> = serde_json::from_slice(&answer.body)
            .map_err(|error| RequestFailure::lost(error).of_read(what))?;
        let version = lease::resource_version(list.metadata.resource_version.as_deref())?;
        Ok((list.items.into_iter().map(|sent| sent.0).collect(), version))
    }

    /// After a 401, the next call takes fresh credentials.
    fn heed(&self, status: StatusCode) {
        if status == StatusCode::UNAUTHORIZED {
            *self.lock() = None;
        }
    }

    async fn client(&self) -> Result<Client, RequestFailure> {
        let present = self.lock().clone();
        match present {
            Some(client) => Ok(client),
            None => {
                let (client, _) = self.config.client().await.map_err(RequestFailure::unsent)?;
                *self.lock() = Some(client.clone());
                Ok(client)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
impl Api {
    /// Over a server that is a function.
    pub(crate) fn over<S, F>(answer: S) -> Self
    where
        S: FnMut(Request<Body>) -> F + Send + 'static,
        F: Future<Output = Result<Response<Body>, std::convert::Infallible>> + Send + 'static,
    {
        let client = Mutex::new(Some(Client::new(tower::service_fn(answer), "default")));
        Self { config: K8sConfig::infer(), namespace: "default".to_owned(), client }
    }
}

/// The parameter that names one Lease, so that RBAC by `resourceNames` allows a list or watch of it.
pub(crate) fn selector(name: &LeaseName) -> String {
    format!("fieldSelector=metadata.name%3D{name}")
}

pub(crate) fn request(
    method: &str,
    path: String,
    body: Option<&Lease>,
) -> Result<Request<Vec<u8>>, BackendError> {
    let made = || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        Ok(request.body(body)?)
    };
    made().map_err(|error| RequestFailure::Unsent(error).of_read("making a request"))
}

impl ApiAnswer {
    /// The Lease that was read or written.
    pub(crate) fn lease(&self) -> Result<Lease, RequestFailure> {
        let sent: SentLease = serde_json::from_slice(&self.body).map_err(RequestFailure::lost)?;
        Ok(sent.0)
    }
}
