//! Hints from a watch: what the API server says has changed.

use std::sync::Arc;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::WatchEvent;
use lease_core::{BackendError, Hint, Hints, LeaseName};

use crate::api::{self, Api, Events};
use crate::error::Failure;
use crate::lease;

/// After this many seconds the API server ends a watch; it goes on where it ended.
const WINDOW_SECS: u64 = 60;

/// A watch that is silent for longer than the API server would keep it has lost its connection.
const SILENCE: Duration = Duration::from_secs(WINDOW_SECS + 15);

struct Watch {
    api: Arc<Api>,
    prefix: String,
    /// What has been seen.
    version: String,
    events: Events,
}

/// Ends when the connection does, or when the API server no longer has what followed the last event (410).
///
/// A lease's name is watched by that name alone, which is what the least RBAC allows; any other prefix by watching the
/// whole namespace.
pub(crate) async fn hints(api: Arc<Api>, prefix: &str) -> Result<Hints, BackendError> {
    // From a linearizable read on, so that no event is from before the watch.
    let (_, version) = api.leases(one(prefix).as_ref()).await?;
    let version = version.to_string();
    let events = open(&api, prefix, &version).await?;
    let watch = Watch { api, prefix: prefix.to_owned(), version, events };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async { watch.next().await.map(|hint| (hint, watch)) })))
}

fn one(prefix: &str) -> Option<LeaseName> {
    LeaseName::new(prefix).ok()
}

async fn open(api: &Api, prefix: &str, version: &str) -> Result<Events, BackendError> {
    let mut path = format!(
        "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={WINDOW_SECS}&resourceVersion={version}",
        api.collection()
    );
    if let Some(name) = one(prefix) {
        path = format!("{path}&{}", api::selector(&name));
    }
    let (limit, request) = (api.config.call_limit, api::request("GET", path, None)?);
    let events = tokio::time::timeout(limit, api.events(request)).await;
    events.unwrap_or(Err(Failure::Silent(limit))).map_err(|failure| failure.of_read("watching leases"))
}

impl Watch {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            let event = tokio::time::timeout(SILENCE, self.events.try_next()).await.ok()?.ok()?;
            let (lease, exists) = match event {
                Some(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) => (lease, true),
                Some(WatchEvent::Deleted(lease)) => (lease, false),
                Some(WatchEvent::Bookmark(bookmark)) => {
                    self.version = bookmark.metadata.resource_version;
                    continue;
                }
                Some(WatchEvent::Error(_)) => return None,
                None => {
                    self.events = open(&self.api, &self.prefix, &self.version).await.ok()?;
                    continue;
                }
            };
            if let Some(version) = &lease.metadata.resource_version {
                self.version.clone_from(version);
            }
            let name = lease.metadata.name.clone().unwrap_or_default();
            if name.starts_with(&self.prefix) {
                return Some(if exists { shown(name, lease) } else { Hint::Changed });
            }
        }
    }
}

/// What can't be read here can't be read by a look either, which says why.
fn shown(name: String, lease: Lease) -> Hint {
    match (LeaseName::new(name), lease::observation(lease)) {
        (Ok(name), Ok(seen)) => Hint::Shows(name, seen),
        _ => Hint::Changed,
    }
}
