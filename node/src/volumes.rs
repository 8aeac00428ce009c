//! A pod's volumes, as folders of its node.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use http::Request;
use k8s_openapi::api::core::v1::{
    ConfigMap, KeyToPath, Pod, Secret, ServiceAccountTokenProjection, Volume as Asked, VolumeProjection,
};
use kube::Api;
use serde_json::{Value, json};

use crate::{environment, host::Host};

/// A pod's volumes by name.
pub(crate) type Volumes = BTreeMap<String, Volume>;

pub(crate) struct Volume {
    /// Its content on this machine.
    pub(crate) path: PathBuf,
    /// Secrets and projections are not, as with a kubelet.
    pub(crate) writable: bool,
}

/// The files of a volume by their paths, with their modes where they differ from the volume's.
type Files = Vec<(String, Vec<u8>, Option<u32>)>;

/// Makes the pod's volumes below `folder`.
pub(crate) async fn prepare(host: &Host, pod: &Pod, folder: &Path) -> anyhow::Result<Volumes> {
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.map(u32::try_from).transpose()?;
    let mut volumes = Volumes::new();
    for volume in spec.volumes.iter().flatten() {
        let made = make(host, pod, volume, folder.join(&volume.name), group).await;
        let made = made.with_context(|| format!("MountVolume.SetUp failed for volume {:?}", volume.name))?;
        volumes.insert(volume.name.clone(), made);
    }
    Ok(volumes)
}

async fn make(
    host: &Host,
    pod: &Pod,
    volume: &Asked,
    path: PathBuf,
    group: Option<u32>,
) -> anyhow::Result<Volume> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(folder) = &volume.host_path {
        return writable(host.host_path(&folder.path), None, None);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        // As on a disk, and unlike in a plain hostPath, the pod's group may write.
        return writable(claimed(host, namespace, &claim.claim_name).await?, group, group.map(|_| 0o2775));
    }
    if volume.empty_dir.is_some() {
        return writable(path, group, Some(if group.is_some() { 0o2777 } else { 0o777 }));
    }
    let (files, mode) = if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let read = Api::<Secret>::namespaced(host.client.clone(), namespace).get(name).await;
        let data = read.with_context(|| format!("cannot read the Secret {namespace}/{name}"))?.data;
        let files = data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0, None));
        (files.collect(), secret.default_mode)
    } else if let Some(projected) = &volume.projected {
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            files.extend(project(host, pod, namespace, source, group).await?);
        }
        (files, projected.default_mode)
    } else {
        bail!("a volume without a source")
    };
    write(&path, &files, mode.unwrap_or(0o644).try_into()?, group)?;
    Ok(Volume { path, writable: false })
}

/// A folder, which is made if it is missing.
fn writable(path: PathBuf, group: Option<u32>, mode: Option<u32>) -> anyhow::Result<Volume> {
    fs::create_dir_all(&path)?;
    chown(&path, None, group)?;
    if let Some(mode) = mode {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(Volume { path, writable: true })
}

async fn project(
    host: &Host,
    pod: &Pod,
    namespace: &str,
    source: &VolumeProjection,
    group: Option<u32>,
) -> anyhow::Result<Files> {
    let mut files = Files::new();
    if let Some(map) = &source.config_map {
        let read = Api::<ConfigMap>::namespaced(host.client.clone(), namespace).get(&map.name).await;
        let read = read.with_context(|| format!("cannot read the ConfigMap {namespace}/{}", map.name))?;
        let mut data = read.data.unwrap_or_default();
        for KeyToPath { key, path, .. } in map.items.iter().flatten() {
            let text = data.remove(key).with_context(|| format!("references non-existent key: {key}"))?;
            files.push((path.clone(), text.into_bytes(), None));
        }
    }
    for item in source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten()) {
        let field = item.field_ref.as_ref().context("a downwardAPI item without fieldRef")?;
        files.push((item.path.clone(), environment::field(pod, field)?.into_bytes(), None));
    }
    if let Some(account) = &source.service_account_token {
        let token = token(host, pod, namespace, account).await?;
        files.push((account.path.clone(), token.into_bytes(), group.map(|_| 0o600)));
    }
    Ok(files)
}

/// Writes files as the kubelet does: a pod's fsGroup may read them.
fn write(folder: &Path, files: &Files, mode: u32, group: Option<u32>) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, bytes, own) in files {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        let mode = own.unwrap_or(mode) | if group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, None, group)?;
    }
    Ok(())
}

/// The folder of a claim's PersistentVolume.
async fn claimed(host: &Host, namespace: &str, claim: &str) -> anyhow::Result<PathBuf> {
    let get = async |path: String| {
        let request = Request::get(&path).body(Vec::new())?;
        anyhow::Ok(host.client.request::<Value>(request).await?)
    };
    let bound = get(format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")).await?;
    let name =
        bound["spec"]["volumeName"].as_str().with_context(|| format!("the claim {claim} is not bound"))?;
    let volume = get(format!("/api/v1/persistentvolumes/{name}")).await?;
    let path = volume["spec"]["hostPath"]["path"].as_str();
    Ok(host.host_path(path.with_context(|| format!("the PersistentVolume {name} has no hostPath"))?))
}

/// A token of the pod's ServiceAccount that is valid as long as the pod exists.
async fn token(
    host: &Host,
    pod: &Pod,
    namespace: &str,
    asked: &ServiceAccountTokenProjection,
) -> anyhow::Result<String> {
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let body = json!({"spec": {
        "audiences": asked.audience.iter().collect::<Vec<_>>(),
        "expirationSeconds": asked.expiration_seconds,
        "boundObjectRef": {
            "kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid,
        },
    }});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = Request::post(&path).header("content-type", "application/json");
    let answer: Value = host.client.request(request.body(serde_json::to_vec(&body)?)?).await?;
    answer["status"]["token"].as_str().map(str::to_owned).context("the answer has no token")
}
