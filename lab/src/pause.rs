//! SIGSTOP for a process that may have a lease file open.

use std::path::Path;
use std::time::Duration;

use lease_testbed::Process;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// Pauses a process at a moment when it doesn't hold the lock of its lease file: else it would stop all that write to the
/// file until it goes on (`docs/decisions/0014-sqlite-what-it-cannot-do.md`). Stores with servers have no such lock.
pub(crate) async fn pause(process: &Process, lease_file: Option<&Path>) -> anyhow::Result<()> {
    loop {
        process.pause().await?;
        let Some(file) = lease_file else { return Ok(()) };
        if is_writable(file).await {
            return Ok(());
        }
        process.resume()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn is_writable(file: &Path) -> bool {
    let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_millis(50));
    let Ok(mut connection) = options.connect().await else { return false };
    match connection.begin_with("BEGIN IMMEDIATE").await {
        Ok(transaction) => transaction.rollback().await.is_ok(),
        Err(_) => false,
    }
}
