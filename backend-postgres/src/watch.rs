//! Hints from NOTIFY, over a connection of their own that goes straight to the server.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream;
use lease_core::{BackendError, Hint, Hints};
use tokio::sync::mpsc;

use crate::config::PostgresConfig;
use crate::error::not_applied;
use crate::listen::{ListenError, Listener};
use crate::payload;
use crate::url;

/// Hints that nobody has taken yet; a slower consumer gets the others when there is room again.
const PLACES: usize = 16;

/// Ends when the connection does, or when the server no longer answers. `pooled` remembers that a pooler was found: what
/// connects through it costs the pool a connection, and finds the same again.
pub(crate) async fn hints(
    config: &PostgresConfig,
    pooled: &AtomicBool,
    prefix: &str,
) -> Result<Hints, BackendError> {
    let options = config.listen.as_ref().unwrap_or(&config.options);
    let listening = match pooled.load(Ordering::Relaxed) {
        true => Err(ListenError::Pooled),
        false => Listener::connect(options, &config.schema.channel()).await,
    };
    let listener = listening.map_err(|error| match error {
        ListenError::Pooled => {
            pooled.store(true, Ordering::Relaxed);
            BackendError::refused(format!(
                "listening at {}: {error}; set listen_url to the server itself: until then standbys find a released \
                 lease by polling",
                url::shown(options)
            ))
        }
        ListenError::Failed(failure) => not_applied(format!("listening at {}", url::shown(options)), failure),
    })?;
    let (hint, mut hinted) = mpsc::channel(PLACES);
    tokio::spawn(forward(listener, prefix.to_owned(), hint));
    Ok(Box::pin(stream::poll_fn(move |cx| hinted.poll_recv(cx))))
}

async fn forward(mut listener: Listener, prefix: String, hint: mpsc::Sender<Hint>) {
    loop {
        let heard = tokio::select! {
            () = hint.closed() => return,
            heard = listener.recv() => heard,
        };
        let Ok(heard) = heard else { return };
        if let Some(shown) = payload::hint(&heard, &prefix)
            && hint.send(shown).await.is_err()
        {
            return;
        }
    }
}
