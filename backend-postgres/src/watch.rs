//! Hints from NOTIFY, over a connection of their own that goes straight to the server.

use std::time::Duration;

use futures::stream;
use lease_core::{BackendError, Hint, Hints, LeaseName, Lineage, Observation, Record};
use serde::{Deserialize, Serialize};
use sqlx::Executor;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::mpsc;

use crate::config::{PostgresConfig, server};
use crate::error::not_applied;

/// A silent connection is asked for a sign of life this often, and given up when none comes for as long.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Ends when the connection does, or when the server no longer answers.
pub(crate) async fn hints(
    config: &PostgresConfig,
    pooled: bool,
    prefix: &str,
) -> Result<Hints, BackendError> {
    let options = match &config.listen {
        Some(direct) => direct,
        None if pooled => {
            return Err(BackendError::refused(
                "a transaction pooler loses notifications: set listen_url to the server itself; until then \
                 standbys find a released lease by polling",
            ));
        }
        None => &config.options,
    };
    let context = format!("listening at {}", server(options));
    let failed = |failure| not_applied(context.clone(), failure);
    // A pool of one, since PgListener takes its connection from one.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(KEEPALIVE)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await.map_err(failed)?;
    listener.eager_reconnect(false);
    listener.listen(&config.schema.channel()).await.map_err(failed)?;

    let (hint, mut hinted) = mpsc::channel(PLACES);
    tokio::spawn(forward(listener, prefix.to_owned(), hint));
    Ok(Box::pin(stream::poll_fn(move |cx| hinted.poll_recv(cx))))
}

/// Hints that nobody has taken yet; whoever is slower hears that something changed when there is room again.
const PLACES: usize = 16;

/// NOTIFY takes payloads of less than 8,000 bytes.
const LONGEST_PAYLOAD: usize = 7_900;

/// What a notification says: the register as the notifying statement wrote it. Where it would be too long, or was
/// written by an older version, the payload is the lease's name alone.
#[derive(Serialize, Deserialize)]
struct Payload {
    lease: LeaseName,
    lineage: Lineage,
    floor: u64,
    record: Record,
}

/// The payload for a write of `record` on `expected`. Its floor is the one that was seen: while the record's tag
/// lasts, no later epoch of this lease was made.
pub(crate) fn payload(lease: &LeaseName, expected: &Observation, record: &Record) -> String {
    let shown = Payload {
        lease: lease.clone(),
        lineage: expected.lineage.clone(),
        floor: expected.floor,
        record: record.clone(),
    };
    match serde_json::to_string(&shown) {
        Ok(text) if text.len() <= LONGEST_PAYLOAD => text,
        _ => lease.as_str().to_owned(),
    }
}

/// What a payload says to somebody who watches `prefix`. Anybody who may connect can send one, so nothing is believed
/// of it that the acquiring statement doesn't compare (grant, epoch, tag, lineage).
fn hint_of(payload: &str, prefix: &str) -> Option<Hint> {
    match serde_json::from_str::<Payload>(payload) {
        Ok(shown) if shown.lease.as_str().starts_with(prefix) => {
            let Payload { lease, lineage, floor, record } = shown;
            let observation = Observation { record: Some(record), lineage, floor, version: String::new() };
            Some(Hint::Shows(lease, observation))
        }
        Ok(_) => None,
        Err(_) => payload.starts_with(prefix).then_some(Hint::Changed),
    }
}

async fn forward(mut listener: PgListener, prefix: String, hint: mpsc::Sender<Hint>) {
    loop {
        let heard = tokio::select! {
            () = hint.closed() => return,
            heard = tokio::time::timeout(KEEPALIVE, listener.try_recv()) => heard,
        };
        match heard {
            Ok(Ok(Some(notification))) => {
                if let Some(what) = hint_of(notification.payload(), &prefix)
                    && hint.send(what).await.is_err()
                {
                    return;
                }
            }
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => match tokio::time::timeout(KEEPALIVE, listener.execute("SELECT 1")).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
        }
    }
}
