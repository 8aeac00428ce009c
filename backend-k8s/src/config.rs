//! Settings, checked before anything starts.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lease_core::{BackendError, InvalidSettings};

/// The API server's address and credentials, and the namespace of the Leases.
#[derive(Clone, Debug)]
pub struct K8sConfig {
    source: Source,
    context: Option<String>,
    namespace: Option<String>,
    pub(crate) call_limit: Duration,
}

#[derive(Clone, Debug)]
enum Source {
    InCluster,
    /// `None`: as kubectl finds it.
    Kubeconfig(Option<PathBuf>),
}

impl K8sConfig {
    /// From within a pod: its ServiceAccount's token, which is read anew as it is rotated.
    pub fn in_cluster() -> Self {
        Self::from(Source::InCluster)
    }

    /// From a kubeconfig: this file, or as kubectl finds it (`$KUBECONFIG`, `~/.kube/config`).
    pub fn kubeconfig(path: Option<PathBuf>) -> Self {
        Self::from(Source::Kubeconfig(path))
    }

    /// [`in_cluster`](Self::in_cluster) in a pod, unless `$KUBECONFIG` is set; else as kubectl does.
    pub fn infer() -> Self {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        match is_set("KUBERNETES_SERVICE_HOST") && !is_set("KUBECONFIG") {
            true => Self::in_cluster(),
            false => Self::kubeconfig(None),
        }
    }

    fn from(source: Source) -> Self {
        Self { source, context: None, namespace: None, call_limit: Duration::from_secs(10) }
    }

    /// A context of the kubeconfig in place of its current one.
    ///
    /// # Errors
    /// In a pod there are no contexts.
    pub fn context(mut self, name: &str) -> Result<Self, InvalidSettings> {
        if matches!(self.source, Source::InCluster) {
            return Err(invalid(
                "context",
                name,
                "contexts are a kubeconfig's: name that file, or leave this out",
            ));
        }
        self.context = Some(name.to_owned());
        Ok(self)
    }

    /// The namespace of the Leases; the pod's own, or the context's, unless set.
    ///
    /// # Errors
    /// Allowed are 1 to 63 characters of `a-z`, `0-9` and `-`, beginning and ending with a letter or a digit.
    pub fn namespace(mut self, name: &str) -> Result<Self, InvalidSettings> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let valid = (1..=63).contains(&name.len())
            && name.chars().all(inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if !valid {
            let why =
                "use 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or a digit";
            return Err(invalid("namespace", name, why));
        }
        self.namespace = Some(name.to_owned());
        Ok(self)
    }

    /// The time limit of any one call; 10 s unless set. The elector cuts calls sooner, by the lease's deadline.
    ///
    /// # Errors
    /// Allowed are 100 ms to 60 s.
    pub fn call_limit(mut self, limit: Duration) -> Result<Self, InvalidSettings> {
        if limit < Duration::from_millis(100) || limit > Duration::from_secs(60) {
            return Err(invalid("call_limit", format!("{limit:?}"), "use 100 ms to 60 s"));
        }
        self.call_limit = limit;
        Ok(self)
    }

    /// A fresh client with fresh credentials, and the namespace.
    pub(crate) async fn client(&self) -> Result<(Client, String), BackendError> {
        let mut config = self.load().await?;
        // a backend never retries.
        config.default_retry = false;
        config.connect_timeout = Some(self.call_limit);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        // Credentials may come from a program that it runs, and waits for.
        let client = tokio::task::spawn_blocking(move || Client::try_from(config)).await;
        let client = client.map_err(|error| unusable(self, error))?.map_err(|error| unusable(self, error))?;
        Ok((client, namespace))
    }

    async fn load(&self) -> Result<Config, BackendError> {
        let context = self.context.clone();
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        match &self.source {
            Source::InCluster => Config::incluster().map_err(|error| unusable(self, error)),
            Source::Kubeconfig(None) => {
                Config::from_kubeconfig(&options).await.map_err(|error| unusable(self, error))
            }
            Source::Kubeconfig(Some(path)) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(self, error))?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.map_err(|error| unusable(self, error))
            }
        }
    }
}

fn unusable(config: &K8sConfig, error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    let context = match &config.source {
        Source::InCluster => {
            "no access from within the cluster; does the pod have a service account token, or is a kubeconfig to be \
             named?"
                .to_owned()
        }
        Source::Kubeconfig(None) => {
            "no usable kubeconfig; set KUBECONFIG, or name the file (and context)".to_owned()
        }
        Source::Kubeconfig(Some(path)) => {
            format!("the kubeconfig {} can't be used; correct the file, its path or the context", path.display())
        }
    };
    BackendError::refused(context).with_source(error)
}

fn invalid(setting: &'static str, value: impl ToString, why: &str) -> InvalidSettings {
    InvalidSettings { setting, value: value.to_string(), why: why.to_owned() }
}
