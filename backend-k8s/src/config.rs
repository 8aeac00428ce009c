//! Settings, checked before anything starts.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use lease_core::{BackendError, InvalidSettings};

use crate::{kubeconfig, proxy};

/// The API server's address and credentials, and the namespace of the Leases.
#[derive(Clone, Debug)]
pub struct K8sConfig {
    source: Source,
    /// Why it isn't what somebody may expect.
    note: Option<&'static str>,
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

    /// [`in_cluster`](Self::in_cluster) in a pod, unless `$KUBECONFIG` names a file; else as kubectl does. In a pod that
    /// has both, a log line says which is used.
    pub fn infer() -> Self {
        let in_a_pod = env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|value| !value.is_empty());
        let named = kubeconfig::named();
        let (source, note) = match (in_a_pod, named.iter().any(|path| kubeconfig::is_there(path))) {
            (true, true) => (Source::Kubeconfig(None), Some(HIDES_POD)),
            (true, false) => (Source::InCluster, (!named.is_empty()).then_some(NAMES_NOTHING)),
            (false, _) => (Source::Kubeconfig(None), None),
        };
        Self { note, ..Self::from(source) }
    }

    fn from(source: Source) -> Self {
        Self { source, note: None, context: None, namespace: None, call_limit: Duration::from_secs(10) }
    }

    /// Says once what may surprise.
    pub(crate) fn announce(&self) {
        if let Some(note) = self.note {
            tracing::warn!("{note}");
        }
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
        let named = kubeconfig::named();
        let read = match &self.source {
            Source::InCluster => return Config::incluster().map_err(|error| unusable(self, error)),
            Source::Kubeconfig(Some(path)) => Kubeconfig::read_from(path),
            Source::Kubeconfig(None) if named.is_empty() => Kubeconfig::read(),
            Source::Kubeconfig(None) => {
                if !named.iter().any(|path| kubeconfig::is_there(path)) {
                    let named: Vec<_> = named.iter().map(|path| path.display().to_string()).collect();
                    return Err(BackendError::refused(format!(
                        "KUBECONFIG names no file that is there: {}; correct it, or name the file by \
                         leaderElection.k8s.kubeconfig",
                        named.join(", ")
                    )));
                }
                kubeconfig::merged(&named)
            }
        };
        let read = read.map_err(|error| unusable(self, error))?;
        let own_proxy = kubeconfig::proxy(&read, self.context.as_deref());
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(read, &options).await;
        let mut config = config.map_err(|error| match error {
            KubeconfigError::ParseNoProxy(_) => {
                BackendError::refused(UNREADABLE_EXCEPTIONS).with_source(error)
            }
            error => unusable(self, error),
        })?;
        config.proxy_url =
            proxy::choose(own_proxy.as_deref(), &config.cluster_url, |name| env::var(name).ok())
                .map_err(BackendError::refused)?;
        Ok(config)
    }
}

const UNREADABLE_EXCEPTIONS: &str = "NO_PROXY can't be read: use names, .domains, addresses and networks, with one comma \
    between two of them and none at the end";
const HIDES_POD: &str = "the kubeconfig that KUBECONFIG names is used, and not this pod's service account, because \
    KUBECONFIG is set: unset it to use the service account";
const NAMES_NOTHING: &str = "this pod's service account is used, because KUBECONFIG names no file that is there: unset \
    it, or correct it to use a kubeconfig";

fn unusable(config: &K8sConfig, error: impl std::error::Error + Send + Sync + 'static) -> BackendError {
    let mut context = match &config.source {
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
    if let Some(note) = config.note {
        context = format!("{context} ({note})");
    }
    BackendError::refused(context).with_source(error)
}

fn invalid(setting: &'static str, value: impl ToString, why: &str) -> InvalidSettings {
    InvalidSettings { setting, value: value.to_string(), why: why.to_owned() }
}
