//! All objects of a kind, kept up to date by list and watch, over restarts of the API server.

use std::{collections::BTreeMap, fmt::Debug, future::Future, pin::pin, time::Duration};

use futures::TryStreamExt;
use kube::{
    Api, Resource,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use serde::de::DeserializeOwned;

const RETRY_DELAY: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(10);
/// After this many seconds the API server ends a watch.
const WINDOW_SECS: u32 = 60;

/// Calls `seen` with all objects, by `namespace/name`, whenever one has changed. Never returns.
pub(crate) async fn keep<K, F>(
    api: Api<K>,
    fields: Option<String>,
    mut seen: impl FnMut(BTreeMap<String, K>) -> F,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Future<Output = ()>,
{
    loop {
        if let Err(error) = follow(&api, fields.as_deref(), &mut seen).await {
            tracing::debug!(%error, "the watch has ended; listing anew");
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

async fn follow<K, F>(
    api: &Api<K>,
    fields: Option<&str>,
    seen: &mut impl FnMut(BTreeMap<String, K>) -> F,
) -> anyhow::Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Future<Output = ()>,
{
    let (mut list, mut watch) = (ListParams::default(), WatchParams::default().timeout(WINDOW_SECS));
    if let Some(fields) = fields {
        (list, watch) = (list.fields(fields), watch.fields(fields));
    }
    let listed = tokio::time::timeout(LIMIT, api.list(&list)).await??;
    let mut version = listed.metadata.resource_version.unwrap_or_default();
    let mut all: BTreeMap<String, K> =
        listed.items.into_iter().map(|object| (key(&object), object)).collect();
    seen(all.clone()).await;
    loop {
        let mut events = pin!(tokio::time::timeout(LIMIT, api.watch(&watch, &version)).await??);
        // A server that vanished without closing its connections is noticed by its silence.
        let silence = Duration::from_secs(WINDOW_SECS.into()) + LIMIT;
        while let Some(event) = tokio::time::timeout(silence, events.try_next()).await?? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    all.insert(key(&object), object);
                }
                WatchEvent::Deleted(object) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    all.remove(&key(&object));
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(error) => anyhow::bail!("the watch has ended: {}", error.message),
            }
            seen(all.clone()).await;
        }
    }
}

fn key<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
