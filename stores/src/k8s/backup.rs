//! Leases as a backup of the objects has them, and the ways in which it is restored.

use std::time::Duration;

use anyhow::Context;
use lease_testbed::{KubernetesAccess, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// One Lease, as `kubectl get -o json` shows it.
pub(super) async fn back_up(access: &KubernetesAccess, path: &str) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&access.request("GET", path, None).await?)?)
}

/// As `kubectl replace` does: the old object under the present uid.
pub(super) async fn put_back(access: &KubernetesAccess, path: &str, kept: &[u8]) -> anyhow::Result<()> {
    let kept: Value = serde_json::from_slice(kept)?;
    wait_for("the Lease is put back between two beats of its holder", LIMIT, async || {
        let (mut kept, present) = (kept.clone(), access.request("GET", path, None).await?);
        kept["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
        access.request("PUT", path, Some(kept)).await
    })
    .await
    .map(drop)
}

/// Makes the same Leases anew under other uids, as a restore into another cluster does.
pub(super) async fn make_anew(access: &KubernetesAccess, path: &str) -> anyhow::Result<()> {
    let kept = access.request("GET", path, None).await?;
    for lease in kept["items"].as_array().context("a list has items")? {
        let (name, annotations) = (&lease["metadata"]["name"], &lease["metadata"]["annotations"]);
        let one = format!("{path}/{}", name.as_str().context("a Lease has a name")?);
        let restored = json!({"metadata": {"name": name, "annotations": annotations}, "spec": lease["spec"]});
        wait_for("the Lease is restored, before its holder heals it", LIMIT, async || {
            access.request("DELETE", &one, None).await?;
            access.request("POST", path, Some(restored.clone())).await
        })
        .await?;
    }
    Ok(())
}
