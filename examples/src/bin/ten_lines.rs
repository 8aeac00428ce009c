//! A program of your own behind a lease, with the fence in its own writes. Run it in two shells at the same time, and
//! stop one with Ctrl-C: the other goes on at once.
//!
//! ```console
//! $ cargo run -p lease-examples
//! ```

use std::time::Duration;

use lease_core::{Elector, Leadership, LeaseName, WorkloadId};
use lease_sqlite::{Fence, FenceError, Sqlite, SqliteConfig};
use sqlx::{Connection, SqliteConnection};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();

    let store = Sqlite::connector(SqliteConfig::new("leases.sqlite")?);
    let elector = Elector::builder(store, LeaseName::new("outbox-forwarder")?, WorkloadId::from_env()?)
        .ttl(Duration::from_secs(15))
        .max_silence(Duration::from_secs(60)) // work that hangs for longer than this loses its lease
        .build()?; // wrong combinations are refused here, with the arithmetic in the message
    let work = async |leadership: Leadership| {
        let mut outbox = open("outbox.sqlite").await?;
        while leadership.should_continue() {
            forward_batch(&mut outbox, &leadership).await?; // admits the term in the transaction of its own writes
        }
        anyhow::Ok(()) // the work has stopped: now the lease is released, and a standby takes over
    };
    elector.run_until(stop_signal()?, work).await?;
    Ok(())
}

/// Resolves at SIGTERM, as orchestrators stop programs, and at SIGINT, as Ctrl-C does.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn open(path: &str) -> anyhow::Result<SqliteConnection> {
    let mut outbox = SqliteConnection::connect(&format!("sqlite:{path}?mode=rwc")).await?;
    Fence::new("batches").install(&mut outbox).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL)")
        .execute(&mut outbox)
        .await?;
    Ok(outbox)
}

/// One piece of work: the term is admitted in the same transaction, so a late one is refused (F-1).
async fn forward_batch(outbox: &mut SqliteConnection, leadership: &Leadership) -> anyhow::Result<()> {
    let term = leadership.term();
    let mut tx = outbox.begin_with("BEGIN IMMEDIATE").await?;
    match Fence::new("batches").admit(&mut tx, &term).await {
        Ok(()) => {}
        Err(FenceError::Stale(_)) => {
            leadership.fence_refused();
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    sqlx::query("INSERT INTO batches (epoch) VALUES (?)").bind(term.epoch as i64).execute(&mut *tx).await?;
    tx.commit().await?;
    // Nothing to forward for a moment. To wait is progress, and ends when the work should stop.
    leadership.idle(Duration::from_millis(100)).await;
    Ok(())
}
