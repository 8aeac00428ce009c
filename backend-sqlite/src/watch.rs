//! A hint for each change of the file, from whichever process.

use std::time::Duration;

use futures::stream;
use lease_core::{BackendError, Hints};
use sqlx::SqliteConnection;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::error::read_failed;
use crate::file::LeaseFile;

const POLL: Duration = Duration::from_millis(25);

struct Watch {
    connection: SqliteConnection,
    file: LeaseFile,
    version: i64,
    ticks: Interval,
}

/// Polls `PRAGMA data_version`, which changes with each commit by any other connection and touches no disk. The
/// stream does all of it when polled: dropped, it leaves nothing behind.
pub(crate) async fn watch(mut connection: SqliteConnection, file: LeaseFile) -> Result<Hints, BackendError> {
    let version = data_version(&mut connection)
        .await
        .map_err(|error| read_failed("could not watch the lease file", error))?;
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch { connection, file, version, ticks };
    Ok(Box::pin(stream::unfold(watch, async |mut watch| watch.changed().await.then_some(((), watch)))))
}

impl Watch {
    /// Waits for a change; false if there is nothing to wait for any more.
    async fn changed(&mut self) -> bool {
        loop {
            self.ticks.tick().await;
            match data_version(&mut self.connection).await {
                Ok(version) if self.file.check().is_ok() => {
                    if version != std::mem::replace(&mut self.version, version) {
                        return true;
                    }
                }
                _ => return false,
            }
        }
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}
