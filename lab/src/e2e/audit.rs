//! The requests of the pods to the API server, compared with the rights that the chart gives them, both ways.

use std::collections::{BTreeMap, BTreeSet};

use lease_testbed::AuditEvent;
use serde::Deserialize;

use super::NAMESPACE;

/// Verbs on Leases, by the name that a role shares with its ServiceAccount.
#[derive(Debug, Default)]
pub(super) struct Granted(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Rule {
    verbs: Vec<String>,
}

impl Granted {
    /// Adds the Roles of what helm has rendered.
    pub(super) fn add(&mut self, manifests: &str) -> anyhow::Result<()> {
        for manifest in serde_saphyr::from_multiple::<Manifest>(manifests)? {
            if manifest.kind == "Role" {
                let verbs = self.0.entry(manifest.metadata.name).or_default();
                verbs.extend(manifest.rules.into_iter().flat_map(|rule| rule.verbs));
            }
        }
        Ok(())
    }

    /// Verbs that were never used, as `NAME verb`.
    pub(super) fn unused(&self, events: &[AuditEvent]) -> Vec<String> {
        let used: BTreeSet<_> = events
            .iter()
            .filter(|event| event.resource == "leases")
            .filter_map(|event| Some((account(event)?, event.verb.as_str())))
            .collect();
        let granted = self.0.iter().flat_map(|(name, verbs)| verbs.iter().map(move |verb| (name, verb)));
        let unused = granted.filter(|(name, verb)| !used.contains(&(name.as_str(), verb.as_str())));
        unused.map(|(name, verb)| format!("{name} {verb}")).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}

/// The ServiceAccount of a request, if it is one of ours.
fn account(event: &AuditEvent) -> Option<&str> {
    event.user.strip_prefix(&format!("system:serviceaccount:{NAMESPACE}:"))
}

/// The requests of our pods that were refused, as `NAME verb path`.
pub(super) fn denied(events: &[AuditEvent]) -> Vec<String> {
    let refused = events.iter().filter(|event| matches!(event.code, 401 | 403));
    refused.filter_map(|event| Some(format!("{} {} {}", account(event)?, event.verb, event.uri))).collect()
}

/// The number of requests of our pods.
pub(super) fn requests(events: &[AuditEvent]) -> usize {
    events.iter().filter(|event| account(event).is_some()).count()
}
