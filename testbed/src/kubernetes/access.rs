//! What an administrator does in a cluster: by a kubeconfig, of ours or of the user's own.

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

use super::Identity;

const LIMIT: Duration = Duration::from_secs(30);

/// An administrator's access to a cluster, or with [`of`](Self::of) that of somebody who may do less.
#[derive(Clone, Debug)]
pub struct KubernetesAccess {
    kubeconfig: PathBuf,
    /// Where identities' files are kept.
    folder: PathBuf,
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
        let method: Method = method.parse().context("no HTTP method")?;
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

    /// Creates a ServiceAccount that may do what `rules` say within its namespace, and nothing else: the `rules` of a
    /// Role. Its kubeconfig is a file beside this cluster's others, with its token in another.
    ///
    /// # Errors
    /// When it exists, or the API server refuses.
    pub async fn create_identity(
        &self,
        namespace: &str,
        name: &str,
        rules: Value,
    ) -> anyhow::Result<Identity> {
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
        let (metadata, group) = (json!({"name": name}), "rbac.authorization.k8s.io");
        let account = json!({"metadata": metadata});
        self.request("POST", &format!("/api/v1/namespaces/{namespace}/serviceaccounts"), Some(account))
            .await?;
        let role = json!({"metadata": metadata, "rules": rules});
        self.request("POST", &format!("{rbac}/roles"), Some(role)).await?;
        let binding = json!({
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        });
        self.request("POST", &format!("{rbac}/rolebindings"), Some(binding)).await?;
        Identity::new(self.clone(), namespace, name, &self.folder).await
    }

    /// The same cluster, in the name of `identity`.
    #[must_use]
    pub fn of(&self, identity: &Identity) -> Self {
        Self { kubeconfig: identity.kubeconfig().to_owned(), folder: self.folder.clone() }
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

    /// A client for this one request: one that is kept would be tied to the runtime that it was made on.
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
