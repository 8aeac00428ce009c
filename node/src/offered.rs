//! The fields of a pod that are offered: a pod with any other is refused, so that none is ignored in silence.

use std::sync::LazyLock;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

/// The shape of a pod's spec. `null` stands for any value; a text lists the values that are offered, with `|` between
/// them; the one item of a list is the shape of all.
static OFFERED: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("offered.json")).expect("offered.json is JSON"));

/// An error that names the first field which isn't offered.
pub(crate) fn check(spec: &PodSpec) -> anyhow::Result<()> {
    compare("spec", &serde_json::to_value(spec).context("a pod's spec")?, &OFFERED)
}

fn compare(path: &str, asked: &Value, offered: &Value) -> anyhow::Result<()> {
    match (asked, offered) {
        (_, Value::Null) => Ok(()),
        (Value::Object(asked), Value::Object(offered)) => asked.iter().try_for_each(|(key, value)| {
            let path = format!("{path}.{key}");
            let shape = if key == "initContainers" { "containers" } else { key };
            let offered = offered.get(shape).with_context(|| format!("{path} is not offered here"))?;
            compare(&path, value, offered)
        }),
        (Value::Array(asked), Value::Array(offered)) => asked
            .iter()
            .zip(offered.iter().cycle())
            .try_for_each(|(asked, offered)| compare(path, asked, offered)),
        (Value::String(asked), Value::String(offered)) if offered.split('|').any(|one| one == asked) => {
            Ok(())
        }
        _ => bail!("{path} {asked} is not offered here: use {offered}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(container: Value, volume: Value) -> Option<String> {
        let spec = json!({"containers": [container], "volumes": [volume]});
        check(&serde_json::from_value(spec).expect("a spec")).err().map(|error| error.to_string())
    }

    #[test]
    fn a_field_that_is_not_offered_is_named() {
        let (container, volume) =
            (json!({"name": "main"}), json!({"name": "run", "hostPath": {"path": "/run"}}));
        assert_eq!(refusal(container.clone(), volume.clone()), None);
        let hook = json!({"name": "main", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}});
        let refused = refusal(hook, volume).expect("it is refused");
        assert_eq!(refused, "spec.containers.lifecycle is not offered here");
        let socket = json!({"name": "run", "hostPath": {"path": "/run", "type": "Socket"}});
        let refused = refusal(container, socket).expect("it is refused");
        assert!(refused.contains(r#"spec.volumes.hostPath.type "Socket" is not offered"#), "{refused}");
    }
}
