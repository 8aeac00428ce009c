//! `k8s`: the Leases of one namespace of a Kubernetes cluster.

use std::path::PathBuf;

use lease_core::{InvalidSettings, LeaseName};
use lease_k8s::{K8s as Backend, K8sConfig};
use lease_settings::{BadSetting, Block, LeaseStore, Millis, Mode, Section, Setting, Settings, ValueKind};
use serde::Deserialize;

pub(super) struct K8sMode;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    namespace: Option<String>,
    kubeconfig: Option<String>,
    context: Option<String>,
    call_timeout_ms: Millis,
}

impl Block for Config {
    const SECTION: Section = Section {
        name: "leaderElection.k8s",
        about: "mode k8s: the Leases of one namespace",
        settings: &[
            Setting::new(
                "namespace",
                "SPENDGUARD_LEADER_K8S_NAMESPACE",
                ValueKind::Checked {
                    check: is_namespace,
                    allowed: "use 1 to 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit",
                },
                "the namespace of the Lease objects",
            )
            .unset("the pod's own, or the kubeconfig's")
            .flag("k8s-namespace"),
            Setting::new(
                "kubeconfig",
                "SPENDGUARD_LEADER_K8S_KUBECONFIG",
                ValueKind::Path,
                "the kubeconfig file",
            )
            .unset("in a pod its service account unless KUBECONFIG names a file, else as kubectl finds it")
            .flag("k8s-kubeconfig"),
            Setting::new("context", "SPENDGUARD_LEADER_K8S_CONTEXT", ValueKind::Text, "the kubeconfig's context")
                .unset("its current one")
                .flag("k8s-context"),
            Setting::new(
                "callTimeoutMs",
                "SPENDGUARD_LEADER_K8S_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 100, max: 60_000 },
                "how long any call may take",
            )
            .default("10000"),
        ],
    };
}

const ADVICE: &str = "check that the API server is reachable from here, that no NetworkPolicy is in the way, and that \
    the service account may get, list, watch and update the Lease";

fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && LeaseName::new(text).is_ok()
}

impl Mode for K8sMode {
    fn name(&self) -> &'static str {
        "k8s"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<LeaseStore, BadSetting> {
        let set = settings.block::<Config>()?;
        let refuse = |key| move |error: InvalidSettings| settings.refuse::<Config>(key, error.why);
        let mut config = match &set.kubeconfig {
            Some(path) => {
                // Else the first complaint would come from the lease thread.
                std::fs::read(path).map_err(|error| {
                    settings.refuse::<Config>("kubeconfig", format!("it can't be read: {error}"))
                })?;
                K8sConfig::kubeconfig(Some(PathBuf::from(path)))
            }
            // A context is a kubeconfig's, in a pod too.
            None if set.context.is_some() => K8sConfig::kubeconfig(None),
            None => K8sConfig::infer(),
        };
        if let Some(context) = &set.context {
            config = config.context(context).map_err(refuse("context"))?;
        }
        if let Some(namespace) = &set.namespace {
            config = config.namespace(namespace).map_err(refuse("namespace"))?;
        }
        config = config.call_limit(set.call_timeout_ms.into()).map_err(refuse("callTimeoutMs"))?;
        let namespace = set.namespace.map_or(String::new(), |namespace| format!(" in namespace {namespace}"));
        Ok(LeaseStore::new(
            "k8s",
            format!("Kubernetes Leases{namespace}"),
            ADVICE,
            Backend::connector(config),
        ))
    }
}
