//! A pod's volumes, as folders of its node's.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use http::Request;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume};
use serde_json::{Value, json};

use super::{
    agent::Node,
    environment::{self, Keys},
};

/// Where a volume's content is on this machine.
pub(super) type Volumes = BTreeMap<String, PathBuf>;

/// A file to be: its path, its bytes, its mode where that is said.
type File = (String, Vec<u8>, Option<i32>);

/// Makes the pod's volumes below `folder`.
pub(super) async fn prepare(node: &Node, pod: &Pod, ip: &str, folder: &Path) -> anyhow::Result<Volumes> {
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let mut volumes = Volumes::new();
    for volume in spec.volumes.iter().flatten() {
        let path = folder.join(&volume.name);
        let path = make(node, pod, ip, volume, path, group.map(u32::try_from).transpose()?)
            .await
            .with_context(|| format!("MountVolume.SetUp failed for volume {:?}", volume.name))?;
        volumes.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

async fn make(
    node: &Node,
    pod: &Pod,
    ip: &str,
    volume: &Volume,
    path: PathBuf,
    group: Option<u32>,
) -> anyhow::Result<PathBuf> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(host) = &volume.host_path {
        return host_path(node, host);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claimed(node, namespace, &claim.claim_name, group).await;
    }
    fs::create_dir_all(&path)?;
    if volume.empty_dir.is_some() {
        chown(&path, None, group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(if group.is_some() { 0o2777 } else { 0o777 }))?;
        return Ok(path);
    }
    let (files, mode) = if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let keys = Keys::Secret.read(node, namespace, name, secret.optional).await?;
        (chosen(keys, secret.items.as_deref(), secret.optional)?, secret.default_mode)
    } else if let Some(map) = &volume.config_map {
        let keys = Keys::ConfigMap.read(node, namespace, &map.name, map.optional).await?;
        (chosen(keys, map.items.as_deref(), map.optional)?, map.default_mode)
    } else if let Some(downward) = &volume.downward_api {
        (told(node, pod, ip, downward.items.as_deref())?, downward.default_mode)
    } else if let Some(projected) = &volume.projected {
        let mut files = Vec::new();
        for source in projected.sources.iter().flatten() {
            if let Some(secret) = &source.secret {
                let keys = Keys::Secret.read(node, namespace, &secret.name, secret.optional).await?;
                files.extend(chosen(keys, secret.items.as_deref(), secret.optional)?);
            } else if let Some(map) = &source.config_map {
                let keys = Keys::ConfigMap.read(node, namespace, &map.name, map.optional).await?;
                files.extend(chosen(keys, map.items.as_deref(), map.optional)?);
            } else if let Some(downward) = &source.downward_api {
                files.extend(told(node, pod, ip, downward.items.as_deref())?);
            } else if let Some(account) = &source.service_account_token {
                let token = token(node, pod, account.audience.as_deref(), account.expiration_seconds).await?;
                files.push((account.path.clone(), token.into_bytes(), group.map(|_| 0o600)));
            } else {
                bail!(
                    "a source of a kind that is not offered: use secret, configMap, downwardAPI, serviceAccountToken"
                );
            }
        }
        (files, projected.default_mode)
    } else {
        bail!(
            "a kind of volume that is not offered: use emptyDir, secret, configMap, downwardAPI, projected, hostPath, \
             or a claim bound to a PersistentVolume with a hostPath"
        );
    };
    write(&path, &files, mode.unwrap_or(0o644), group)?;
    Ok(path)
}

fn chosen(
    keys: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> anyhow::Result<Vec<File>> {
    let mut keys = keys.unwrap_or_default();
    let Some(items) = items else {
        return Ok(keys.into_iter().map(|(key, value)| (key, value, None)).collect());
    };
    let mut files = Vec::new();
    for item in items {
        match keys.remove(&item.key) {
            Some(value) => files.push((item.path.clone(), value, item.mode)),
            None if optional == Some(true) => {}
            None => bail!("references non-existent key: {}", item.key),
        }
    }
    Ok(files)
}

fn told(
    node: &Node,
    pod: &Pod,
    ip: &str,
    items: Option<&[DownwardAPIVolumeFile]>,
) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    for item in items.into_iter().flatten() {
        let field = item.field_ref.as_ref().context("only fieldRef is offered")?;
        let text = environment::field(pod, ip, &node.ip.to_string(), field)?;
        files.push((item.path.clone(), text.into_bytes(), item.mode));
    }
    Ok(files)
}

/// As the kubelet writes them: with an fsGroup, that group may read them.
fn write(folder: &Path, files: &[File], mode: i32, group: Option<u32>) -> anyhow::Result<()> {
    for (name, bytes, own) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)?;
        fs::write(&path, bytes)?;
        let mode = u32::try_from(own.unwrap_or(mode))? | if group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, None, group)?;
    }
    Ok(())
}

/// A path of the node's is one below its folder.
fn host_path(node: &Node, source: &HostPathVolumeSource) -> anyhow::Result<PathBuf> {
    let path = node.host_path(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "" | "DirectoryOrCreate" if !path.exists() => fs::create_dir_all(&path)?,
        "FileOrCreate" if !path.exists() => drop(fs::File::create(&path)?),
        "Directory" if !path.is_dir() => {
            bail!("hostPath type check failed: {} is not a directory", source.path)
        }
        "File" | "Socket" if !path.exists() => {
            bail!("hostPath type check failed: there is no {}", source.path)
        }
        _ => {}
    }
    Ok(path)
}

/// The folder of a claim's volume; as with a disk, and unlike a plain hostPath, the pod's group may write to it.
async fn claimed(node: &Node, namespace: &str, claim: &str, group: Option<u32>) -> anyhow::Result<PathBuf> {
    let get = async |path: String| {
        let request = Request::get(&path).body(Vec::new())?;
        anyhow::Ok(node.client.request::<Value>(request).await?)
    };
    let bound = get(format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{claim}")).await?;
    let name =
        bound["spec"]["volumeName"].as_str().with_context(|| format!("the claim {claim} is not bound"))?;
    let volume = get(format!("/api/v1/persistentvolumes/{name}")).await?;
    let path = volume["spec"]["hostPath"]["path"].as_str().or(volume["spec"]["local"]["path"].as_str());
    let path = path.with_context(|| format!("the PersistentVolume {name} has neither hostPath nor local"))?;
    let path = host_path(node, &HostPathVolumeSource { path: path.to_owned(), type_: None })?;
    if group.is_some() {
        chown(&path, None, group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2775))?;
    }
    Ok(path)
}

/// A token of the pod's ServiceAccount that is good as long as the pod exists.
async fn token(
    node: &Node,
    pod: &Pod,
    audience: Option<&str>,
    seconds: Option<i64>,
) -> anyhow::Result<String> {
    let spec = pod.spec.as_ref().context("a pod without a spec")?;
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let body = json!({"spec": {
        "audiences": audience.into_iter().collect::<Vec<_>>(),
        "expirationSeconds": seconds.unwrap_or(3600),
        "boundObjectRef": {
            "kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid,
        },
    }});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = Request::post(&path).header("content-type", "application/json");
    let answer: Value = node.client.request(request.body(serde_json::to_vec(&body)?)?).await?;
    answer["status"]["token"].as_str().map(str::to_owned).context("the answer has no token")
}
