//! A container's environment.

use std::collections::BTreeMap;

use anyhow::bail;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod};

/// The container's own variables, and those that every container has: the usual defaults and the API server's address.
pub(crate) fn of(pod: &Pod, container: &Container) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env: BTreeMap<String, String> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/"),
        ("HOSTNAME", pod.metadata.name.as_deref().unwrap_or_default()),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for variable in container.env.iter().flatten() {
        let field = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        let value = match field {
            Some(field) => self::field(pod, field)?,
            None => variable.value.clone().unwrap_or_default(),
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

/// A field of the pod, by the downward API.
pub(crate) fn field(pod: &Pod, selector: &ObjectFieldSelector) -> anyhow::Result<String> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let value = match selector.field_path.as_str() {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        path => bail!("the field {path} is not offered here"),
    };
    Ok(value.unwrap_or_default())
}
