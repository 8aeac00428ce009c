//! One register's keys and values, as a copy of them would be put back.

use std::collections::BTreeMap;

use lease_etcd::etcd_client::{GetOptions, Txn, TxnOp};

use super::EtcdPlace;

/// Each key below `keys` with its value, as JSON.
pub(super) async fn back_up(place: &EtcdPlace, keys: &str) -> anyhow::Result<Vec<u8>> {
    let found = place.client().await?.get(keys, Some(GetOptions::new().with_prefix())).await?;
    let text = |bytes: &[u8]| anyhow::Ok(str::from_utf8(bytes)?.to_owned());
    let pairs = found.kvs().iter().map(|pair| Ok((text(pair.key())?, text(pair.value())?)));
    Ok(serde_json::to_vec(&pairs.collect::<anyhow::Result<BTreeMap<_, _>>>()?)?)
}

/// All of them at one revision.
pub(super) async fn put_back(place: &EtcdPlace, kept: &[u8]) -> anyhow::Result<()> {
    let kept: BTreeMap<String, String> = serde_json::from_slice(kept)?;
    let puts: Vec<_> = kept.into_iter().map(|(key, value)| TxnOp::put(key, value, None)).collect();
    place.client().await?.txn(Txn::new().and_then(puts)).await?;
    Ok(())
}
