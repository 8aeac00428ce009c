//! A container's environment, and `$(VAR)` in its command.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, ObjectFieldSelector, Pod};

use super::{agent::Node, image::Image};

/// Beyond what the pod says: what the image says, and where the API server is.
pub(super) async fn of(
    node: &Node,
    pod: &Pod,
    ip: &str,
    image: &Image,
    container: &Container,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env: BTreeMap<String, String> = image.env.iter().cloned().collect();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (what, name, optional) = match (&from.secret_ref, &from.config_map_ref) {
            (Some(secret), _) => (Keys::Secret, &secret.name, secret.optional),
            (_, Some(map)) => (Keys::ConfigMap, &map.name, map.optional),
            _ => continue,
        };
        for (key, value) in what.read(node, namespace, name, optional).await?.unwrap_or_default() {
            env.insert(format!("{prefix}{key}"), text(value)?);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => from_source(node, pod, ip, namespace, source)
                .await
                .with_context(|| format!("the variable {}", variable.name))?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &env)),
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    let host_name = pod.metadata.name.clone().unwrap_or_default();
    let defaults = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/"),
        ("HOSTNAME", &host_name),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ];
    for (name, value) in defaults {
        env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(env)
}

async fn from_source(
    node: &Node,
    pod: &Pod,
    ip: &str,
    namespace: &str,
    source: &EnvVarSource,
) -> anyhow::Result<Option<String>> {
    if let Some(field) = &source.field_ref {
        return self::field(pod, ip, &node.ip.to_string(), field).map(Some);
    }
    let (what, name, key, optional) = match (&source.secret_key_ref, &source.config_map_key_ref) {
        (Some(secret), _) => (Keys::Secret, &secret.name, &secret.key, secret.optional),
        (_, Some(map)) => (Keys::ConfigMap, &map.name, &map.key, map.optional),
        _ => bail!("only fieldRef, secretKeyRef and configMapKeyRef are offered"),
    };
    let value = what.read(node, namespace, name, optional).await?.and_then(|mut keys| keys.remove(key));
    match value {
        Some(value) => text(value).map(Some),
        None if optional == Some(true) => Ok(None),
        None => bail!("couldn't find key {key} in {what:?} {namespace}/{name}"),
    }
}

fn text(value: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(value).context("a value that isn't text can't be in an environment")
}

/// What the downward API tells.
pub(super) fn field(
    pod: &Pod,
    ip: &str,
    host_ip: &str,
    selector: &ObjectFieldSelector,
) -> anyhow::Result<String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    let all = |map: &Option<BTreeMap<String, String>>| {
        let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let path = selector.field_path.as_str();
    let owned = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(match path {
        "metadata.name" => owned(&meta.name),
        "metadata.namespace" => owned(&meta.namespace),
        "metadata.uid" => owned(&meta.uid),
        "metadata.labels" => all(&meta.labels),
        "metadata.annotations" => all(&meta.annotations),
        "spec.nodeName" => owned(&spec.node_name),
        "spec.serviceAccountName" => owned(&spec.service_account_name),
        "status.podIP" | "status.podIPs" => ip.to_owned(),
        "status.hostIP" | "status.hostIPs" => host_ip.to_owned(),
        _ => {
            let part = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
            let (map, key) = match (part("metadata.labels['"), part("metadata.annotations['")) {
                (Some(key), _) => (&meta.labels, key),
                (_, Some(key)) => (&meta.annotations, key),
                _ => bail!("the field {path} is not offered"),
            };
            map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
        }
    })
}

/// `$(VAR)` becomes the variable's value if there is one; `$$(VAR)` becomes `$(VAR)`.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find('$') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let name = rest.strip_prefix("$(").and_then(|rest| rest.split_once(')'));
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = name
            && let Some(value) = env.get(name)
        {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

/// What has keys with values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    Secret,
    ConfigMap,
}

impl Keys {
    /// `None` if there is none and that is all right.
    pub(super) async fn read(
        self,
        node: &Node,
        namespace: &str,
        name: &str,
        optional: Option<bool>,
    ) -> anyhow::Result<Option<BTreeMap<String, Vec<u8>>>> {
        let read = async {
            anyhow::Ok(match self {
                Self::Secret => {
                    let secret = node.secrets(namespace).get_opt(name).await?;
                    let data = secret.map(|secret| secret.data.unwrap_or_default());
                    data.map(|data| data.into_iter().map(|(key, value)| (key, value.0)).collect())
                }
                Self::ConfigMap => node.config_maps(namespace).get_opt(name).await?.map(|map| {
                    let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
                    let bytes = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
                    text.chain(bytes).collect()
                }),
            })
        };
        match read.await.with_context(|| format!("cannot read {self:?} {namespace}/{name}"))? {
            None if optional != Some(true) => bail!("{self:?} {namespace}/{name} not found"),
            found => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = [("A".to_owned(), "1".to_owned())].into();
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &env), expanded, "{text}");
        }
    }
}
