//! Clients of the sidecars: they make reservations, and commit them or leave them to the sweeper.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::pods::PATIENCE;

pub(crate) const TENANT: &str = "acme";

/// Beyond this nobody waits any more for an answer: a lost node costs its grace, and then some.
const LONGEST: Duration = Duration::from_secs(90);

/// The ttl of a reservation that is left to the sweeper, in seconds.
const SHORT: u32 = 1;

/// A client and its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// Part of its requests' keys.
    pub(crate) name: &'static str,
    pub(crate) currency: &'static str,
    pub(crate) amount_minor: u32,
    /// Two of three reservations are committed; else all are left to the sweeper.
    pub(crate) commits: bool,
}

impl Default for Client {
    fn default() -> Self {
        Self { name: "one", currency: "EUR", amount_minor: 1, commits: true }
    }
}

/// Requests in a row, each repeated under its key until it is answered.
pub(crate) struct Load {
    task: JoinHandle<anyhow::Result<u64>>,
    enough: Arc<AtomicBool>,
    pub(crate) committed: Arc<AtomicU64>,
    /// The number of refusals for want of budget.
    pub(crate) refused: Arc<AtomicU64>,
}

impl Load {
    pub(crate) fn start(sockets: Vec<PathBuf>, client: Client) -> Self {
        let (enough, committed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let refused = Arc::<AtomicU64>::default();
        let task = tokio::spawn(run(sockets, client, enough.clone(), committed.clone(), refused.clone()));
        Self { task, enough, committed, refused }
    }

    /// It has given up: [`finish`](Self::finish) says why.
    pub(crate) fn has_failed(&self) -> bool {
        self.task.is_finished() && !self.enough.load(Ordering::Relaxed)
    }

    /// Lets the request under way finish; returns how many reservations were made.
    pub(crate) async fn finish(self) -> anyhow::Result<u64> {
        self.enough.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn run(
    sockets: Vec<PathBuf>,
    client: Client,
    enough: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
) -> anyhow::Result<u64> {
    // Chooses the process's provider of TLS, without which there is no client.
    lease_worker_common::http_client(PATIENCE)?;
    let Client { name, currency, amount_minor, commits } = client;
    let (mut number, mut made) = (0, 0);
    while !enough.load(Ordering::Relaxed) {
        number += 1;
        let leave = !commits || number % 3 == 0;
        let reservation = json!({
            "tenant": TENANT, "amount_minor": amount_minor, "currency": currency,
            "ttl_seconds": if leave { SHORT } else { 600 }, "idempotency_key": format!("reserve-{name}-{number}"),
        });
        let Some(reserved) = ask(&sockets, "/v1/reservations", &reservation).await? else {
            refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        made += 1;
        let id = reserved["reservation_id"].as_str().unwrap_or_default();
        if !leave {
            let key = json!({"idempotency_key": format!("commit-{name}-{number}")});
            ask(&sockets, &format!("/v1/reservations/{id}/commit"), &key).await?;
            committed.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(made)
}

/// Asks one sidecar once.
pub(super) async fn send(socket: &Path, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
    let client = reqwest::Client::builder().unix_socket(socket).timeout(Duration::from_secs(2)).build()?;
    client.post(format!("http://sidecar{path}")).json(body).send().await
}

/// Asks one sidecar after the other until one of them has done it, or has said that the budget has no room.
async fn ask(sockets: &[PathBuf], path: &str, body: &Value) -> anyhow::Result<Option<Value>> {
    let began = std::time::Instant::now();
    let mut last = String::from("no request was sent");
    while began.elapsed() < LONGEST {
        for socket in sockets {
            match send(socket, path, body).await {
                Ok(answer) if answer.status().is_success() => return Ok(Some(answer.json().await?)),
                Ok(answer) => {
                    last = format!("{} {}", answer.status(), answer.text().await.unwrap_or_default());
                    if last.contains("BUDGET_EXCEEDED") {
                        return Ok(None);
                    }
                }
                // A standby has no socket.
                Err(error) if error.is_connect() => {}
                Err(error) => last = format!("{:#}", anyhow::Error::from(error)),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no sidecar answered {path} within {LONGEST:?}: {last}")
}
