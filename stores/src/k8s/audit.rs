//! The least rights that leases need, and a judgement of the audit log by them.

use anyhow::{bail, ensure};
use lease_testbed::AuditEvent;
use serde_json::{Value, json};

const VERBS: [&str; 5] = ["get", "list", "watch", "update", "create"];

/// The rules of the workers' Role, without the Leases' names, which the suite makes up.
pub(super) fn rules() -> Value {
    json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": VERBS}])
}

/// The number of requests of the users that `is_ours`; an error if one of them was beyond the rules.
pub(super) fn judge(events: &[AuditEvent], is_ours: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
    if let Some(denied) = events.iter().find(|event| event.code == 401) {
        bail!("a request without valid credentials: {denied:?}");
    }
    // Everybody may ask for the version, without a rule.
    let ours: Vec<_> = events.iter().filter(|event| is_ours(&event.user)).collect();
    for event in &ours {
        let known =
            event.resource == "leases" && VERBS.contains(&event.verb.as_str()) || event.uri == "/version";
        // A Role that names Leases by `resourceNames` allows a list or watch of one by this selector alone. Only the
        // operators' listing asks for all.
        let named = event.verb != "watch" || event.uri.contains("fieldSelector=metadata.name%3D");
        ensure!(known && named && event.code != 403, "a request beyond the least RBAC: {event:?}");
    }
    for verb in VERBS {
        let (all, ours) = (events.len(), ours.len());
        let shown = events.iter().any(|event| event.verb == verb && is_ours(&event.user));
        ensure!(shown, "of {all} requests in the audit log {ours} are the suite's, and none is a {verb}");
    }
    Ok(ours.len())
}
