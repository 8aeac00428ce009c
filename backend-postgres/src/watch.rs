//! Hints from NOTIFY, over a connection of their own that goes straight to the server.

use std::time::Duration;

use futures::stream;
use lease_core::{BackendError, Hints};
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

    // One place: hints that come while one is waiting say nothing new. The first says that everything may have
    // changed before the watch was live.
    let (hint, mut hinted) = mpsc::channel(1);
    let _ = hint.try_send(());
    tokio::spawn(forward(listener, prefix.to_owned(), hint));
    Ok(Box::pin(stream::poll_fn(move |cx| hinted.poll_recv(cx))))
}

async fn forward(mut listener: PgListener, prefix: String, hint: mpsc::Sender<()>) {
    loop {
        let heard = tokio::select! {
            () = hint.closed() => return,
            heard = tokio::time::timeout(KEEPALIVE, listener.try_recv()) => heard,
        };
        match heard {
            Ok(Ok(Some(notification))) if notification.payload().starts_with(&prefix) => {
                let _ = hint.try_send(());
            }
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => match tokio::time::timeout(KEEPALIVE, listener.execute("SELECT 1")).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
        }
    }
}
