//! A ServiceAccount with a kubeconfig of its own, and tokens that can be rotated and revoked.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};

use super::access::KubernetesAccess;

/// A ServiceAccount, with a kubeconfig that reads its token from a file; made by
/// [`KubernetesAccess::create_identity`].
#[derive(Clone, Debug)]
pub struct Identity {
    access: KubernetesAccess,
    namespace: String,
    name: String,
    folder: PathBuf,
    kubeconfig: PathBuf,
    token_file: PathBuf,
}

impl KubernetesAccess {
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
}

impl Identity {
    async fn new(
        access: KubernetesAccess,
        namespace: &str,
        name: &str,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let file = |ending: &str| folder.join(format!("{namespace}.{name}.{ending}"));
        let (kubeconfig, token_file) = (file("kubeconfig"), file("token"));
        let (namespace, name, folder) = (namespace.to_owned(), name.to_owned(), folder.to_owned());
        let identity = Self { access, namespace, name, folder, kubeconfig, token_file };
        identity.write_token(&identity.token(None).await?)?;
        identity.write_kubeconfig(&identity.kubeconfig, identity.access.cluster()?)?;
        Ok(identity)
    }

    /// Its user name for the API server and its audit log.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// Its namespace, which is also its kubeconfig's.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig that goes to `addr` instead, by TLS: a proxy in TCP mode before the API server.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn kubeconfig_through(&self, addr: SocketAddr) -> anyhow::Result<PathBuf> {
        let mut cluster = self.access.cluster()?;
        cluster["server"] = json!(format!("https://{addr}"));
        self.other_kubeconfig(addr, cluster)
    }

    /// A kubeconfig that goes to `addr` without TLS: a proxy before a [`PlainGate`](super::PlainGate).
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn plain_kubeconfig_through(&self, addr: SocketAddr) -> anyhow::Result<PathBuf> {
        self.other_kubeconfig(addr, json!({"server": format!("http://{addr}")}))
    }

    /// A token that the API server accepts only while the Secret `secret` exists; it is created here. Delete it, and
    /// the token is revoked.
    ///
    /// # Errors
    /// When the Secret exists, or the API server refuses.
    pub async fn revocable_token(&self, secret: &str) -> anyhow::Result<String> {
        let body = json!({"metadata": {"name": secret}});
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        let created = self.access.request("POST", &path, Some(body)).await?;
        let uid = &created["metadata"]["uid"];
        self.token(Some(json!({"kind": "Secret", "apiVersion": "v1", "name": secret, "uid": uid}))).await
    }

    /// Revokes a [`revocable_token`](Self::revocable_token). The API server may remember it for 10 s.
    ///
    /// # Errors
    /// When there is no such Secret.
    pub async fn revoke(&self, secret: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/{}/secrets/{secret}", self.namespace);
        self.access.request("DELETE", &path, None).await.map(drop)
    }

    /// Puts a token into the file, at once and whole, as the kubelet does.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_token(&self, token: &str) -> anyhow::Result<()> {
        let fresh = self.token_file.with_extension("token.new");
        fs::write(&fresh, token)?;
        Ok(fs::rename(&fresh, &self.token_file)?)
    }

    async fn token(&self, bound_to: Option<Value>) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", self.namespace, self.name);
        let body = json!({"spec": {"expirationSeconds": 86_400, "boundObjectRef": bound_to}});
        let answer = self.access.request("POST", &path, Some(body)).await?;
        let token = answer["status"]["token"].as_str().context("the answer has no token")?;
        Ok(token.to_owned())
    }

    fn other_kubeconfig(&self, addr: SocketAddr, cluster: Value) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{}.{}.{}.kubeconfig", self.namespace, self.name, addr.port()));
        self.write_kubeconfig(&path, cluster)?;
        Ok(path)
    }

    fn write_kubeconfig(&self, path: &Path, cluster: Value) -> anyhow::Result<()> {
        let name = &self.name;
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{
                "name": name,
                "context": {"cluster": "testbed", "user": name, "namespace": self.namespace},
            }],
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": name, "user": {"tokenFile": self.token_file}}],
        });
        Ok(fs::write(path, serde_json::to_vec_pretty(&kubeconfig)?)?)
    }
}
