//! Requests to an API server, by a kubeconfig.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// An administrator's access to a cluster, or by [`of`](Self::of) an identity's.
#[derive(Clone, Debug)]
pub struct KubernetesAccess {
    pub(super) kubeconfig: PathBuf,
    /// The folder for the files of identities.
    pub(super) folder: PathBuf,
}

impl KubernetesAccess {
    pub(super) fn new(kubeconfig: PathBuf, folder: &Path) -> Self {
        Self { kubeconfig, folder: folder.to_owned() }
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Asks the API server anything, in an administrator's name, and returns the answer: `("GET",
    /// "/apis/coordination.k8s.io/v1/namespaces/app/leases", None)`.
    ///
    /// # Errors
    /// When it refuses, or doesn't answer within 30 s.
    pub async fn request(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let method: Method = method.parse().context("not an HTTP method")?;
        let mut request = Request::builder().method(&method).uri(path);
        if body.is_some() {
            let merges = method == Method::PATCH;
            request = request.header(
                "content-type",
                if merges { "application/merge-patch+json" } else { "application/json" },
            );
        }
        let body = body.map(|body| serde_json::to_vec(&body)).transpose()?.unwrap_or_default();
        let text = self.send(request.body(body)?).await.with_context(|| format!("{method} {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("the answer to {method} {path}: {text}"))
    }

    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        self.send(Request::get("/readyz").body(Vec::new())?).await.map(drop)
    }

    /// Creates a namespace.
    ///
    /// # Errors
    /// When it exists, or the API server refuses.
    pub async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.request("POST", "/api/v1/namespaces", Some(namespace)).await.map(drop)
    }

    /// The cluster's entry in the kubeconfig.
    pub(super) fn cluster(&self) -> anyhow::Result<Value> {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
        let current = kubeconfig.current_context.context("the kubeconfig has no current context")?;
        let context = kubeconfig.contexts.into_iter().find(|named| named.name == current);
        let name = context.and_then(|named| named.context).map(|context| context.cluster);
        let cluster = kubeconfig.clusters.into_iter().find(|named| Some(&named.name) == name.as_ref());
        let cluster =
            cluster.and_then(|named| named.cluster).context("the current context has no cluster")?;
        Ok(serde_json::to_value(cluster)?)
    }

    /// Makes a client for this one request, since a client is tied to the runtime that it was made on.
    async fn send(&self, request: Request<Vec<u8>>) -> anyhow::Result<String> {
        let answer = async {
            let kubeconfig = Kubeconfig::read_from(&self.kubeconfig)?;
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.default_retry = false;
            anyhow::Ok(Client::try_from(config)?.request_text(request).await?)
        };
        tokio::time::timeout(LIMIT, answer).await.map_err(|_| anyhow!("no answer within {LIMIT:?}"))?
    }
}
