//! Hints from a watch: what the API server says has changed.

use std::sync::Arc;
use std::time::Duration;

use futures::{TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::WatchEvent;
use lease_core::{BackendError, Hint, Hints, LeaseName};

use crate::api::{self, Api, Events};
use crate::error::RequestFailure;
use crate::lease;

/// After this many seconds the API server ends a watch; it goes on where it ended.
const WINDOW_SECS: u64 = 60;

/// A watch that is silent for longer than the API server would keep it has lost its connection.
const SILENCE: Duration = Duration::from_secs(WINDOW_SECS + 15);

struct Watch {
    api: Arc<Api>,
    prefix: String,
    /// The Leases that have been seen.
    version: String,
    /// Has it shown anything since it was opened?
    alive: bool,
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
    let watch = Watch { api, prefix: prefix.to_owned(), version, alive: false, events };
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
    events.unwrap_or(Err(RequestFailure::Silent(limit))).map_err(|failure| failure.of_read("watching leases"))
}

impl Watch {
    async fn next(&mut self) -> Option<Hint> {
        loop {
            let event = tokio::time::timeout(SILENCE, self.events.try_next()).await.ok()?.ok()?;
            let (lease, exists) = match event {
                Some(WatchEvent::Added(sent) | WatchEvent::Modified(sent)) => (sent.0, true),
                Some(WatchEvent::Deleted(sent)) => (sent.0, false),
                Some(WatchEvent::Bookmark(bookmark)) => {
                    self.alive = true;
                    self.version = bookmark.metadata.resource_version;
                    continue;
                }
                Some(WatchEvent::Error(_)) => return None,
                // At least a bookmark comes before the window closes: what ends before ends again.
                None if !self.alive => return None,
                None => {
                    self.alive = false;
                    self.events = open(&self.api, &self.prefix, &self.version).await.ok()?;
                    continue;
                }
            };
            self.alive = true;
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

/// A Lease that can't be read here can't be read by `observe` either, which says why.
fn shown(name: String, lease: Lease) -> Hint {
    match (LeaseName::new(name), lease::observation(lease)) {
        (Ok(name), Ok(seen)) => Hint::Shows(name, seen),
        _ => Hint::Changed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::StreamExt;
    use http::Response;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn lease(version: u64) -> serde_json::Value {
        json!({
            "metadata": {"name": "one", "uid": "u", "resourceVersion": version.to_string()},
            "spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 1},
        })
    }

    /// An API server that gives these answers, one after the other, and its callers' queries.
    fn server(answers: Vec<String>) -> (Arc<Api>, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, mut answers) = (asked.clone(), answers.into_iter());
        let api = Api::over(move |request| {
            log.lock().unwrap().push(request.uri().query().unwrap_or_default().to_owned());
            let answer = answers.next().expect("no more was to be asked");
            std::future::ready(Ok(Response::new(Body::from(answer.into_bytes()))))
        });
        (Arc::new(api), asked)
    }

    #[tokio::test]
    async fn goes_on_where_the_server_ended_it_and_ends_when_that_is_gone() {
        let event = |kind: &str, object: serde_json::Value| {
            json!({"type": kind, "object": object}).to_string() + "\n"
        };
        let list = json!({"metadata": {"resourceVersion": "7"}, "items": []}).to_string();
        let bookmark = json!({"kind": "Lease", "apiVersion": "v1", "metadata": {"resourceVersion": "12"}});
        // A watch that ends before it has shown anything ends for good.
        let (api, _) = server(vec![list.clone(), String::new()]);
        assert_eq!(super::hints(api, "one").await.unwrap().next().await, None);

        let gone = json!({"status": "Failure", "message": "too old", "reason": "Expired", "code": 410});
        let first = event("MODIFIED", lease(9)) + &event("BOOKMARK", bookmark);
        let (api, asked) = server(vec![list, first, event("DELETED", lease(15)), event("ERROR", gone)]);
        let mut hints = hints(api, "one").await.unwrap();
        let Some(Hint::Shows(_, seen)) = hints.next().await else { panic!("it is shown") };
        assert_eq!(seen.floor, 9);
        assert_eq!(hints.next().await, Some(Hint::Changed), "a deletion");
        assert_eq!(hints.next().await, None, "410: whoever waits must look, and watch anew");
        let asked = asked.lock().unwrap();
        let from: Vec<_> = asked.iter().filter_map(|query| query.split("resourceVersion=").nth(1)).collect();
        let from: Vec<_> = from.iter().filter_map(|query| query.split('&').next()).collect();
        assert_eq!(from, ["7", "12", "15"]);
        assert!(asked.iter().all(|query| query.contains("fieldSelector=metadata.name%3Done")), "{asked:?}");
    }
}
