//! A hint for each change under a prefix, from whichever process.

use std::time::Duration;

use futures::stream;
use lease_core::{BackendError, Hint, Hints};
use sqlx::SqliteConnection;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::error::read_failed;
use crate::file::LeaseFile;

const POLL: Duration = Duration::from_millis(25);

const TAGS: &str =
    "SELECT group_concat(tag) FROM coordination_leases WHERE substr(lease_name, 1, length(?1)) = ?1";

struct Watch {
    connection: SqliteConnection,
    file: LeaseFile,
    prefix: String,
    version: i64,
    tags: Option<String>,
    ticks: Interval,
}

/// Polls `PRAGMA data_version`, which changes with each commit by any other connection and touches no disk; then looks
/// whether the commit was under the prefix. The stream does all of it when polled: dropped, it leaves nothing behind.
pub(crate) async fn watch(
    connection: SqliteConnection,
    file: LeaseFile,
    prefix: String,
) -> Result<Hints, BackendError> {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch { connection, file, prefix, version: -1, tags: None, ticks };
    watch.look().await.map_err(|error| read_failed("could not watch the lease file", error))?;
    Ok(Box::pin(stream::unfold(watch, async |mut watch| {
        watch.changed().await.then_some((Hint::Changed, watch))
    })))
}

impl Watch {
    /// Waits for a change; false if there is nothing to wait for any more.
    async fn changed(&mut self) -> bool {
        loop {
            self.ticks.tick().await;
            match self.look().await {
                Ok(changed) if self.file.check().is_ok() => {
                    if changed {
                        return true;
                    }
                }
                _ => return false,
            }
        }
    }

    /// Has anything under the prefix changed since the last look?
    async fn look(&mut self) -> Result<bool, sqlx::Error> {
        // The version first: what is committed between the two reads is found once more.
        let version = sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut self.connection).await?;
        if version == std::mem::replace(&mut self.version, version) {
            return Ok(false);
        }
        let tags: Option<String> =
            sqlx::query_scalar(TAGS).bind(&self.prefix).fetch_one(&mut self.connection).await?;
        Ok(tags != std::mem::replace(&mut self.tags, tags.clone()))
    }
}
