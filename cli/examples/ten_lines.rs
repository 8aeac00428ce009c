//! A program of your own behind a lease, with the fence in its own writes. Run it twice at the same time:
//!
//! ```console
//! $ cargo run -p leasehold --example ten_lines -- /tmp/leases.sqlite /tmp/effects.sqlite
//! ```

use std::time::Duration;

use anyhow::Context;
use lease_core::{Elector, Leadership, LeaseName, Term, WorkloadId};
use lease_sqlite::{Fence, FenceError, Sqlite, SqliteConfig};
use sqlx::{Connection, SqliteConnection};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut files = std::env::args().skip(1);
    let leases = files.next().context("usage: ten_lines LEASES.sqlite EFFECTS.sqlite")?;
    let effects = files.next().context("usage: ten_lines LEASES.sqlite EFFECTS.sqlite")?;
    let shutdown = async {
        let _ = tokio::signal::ctrl_c().await;
    };

    let store = Sqlite::connector(SqliteConfig::new(leases)?);
    let elector = Elector::builder(store, LeaseName::new("outbox-forwarder")?, WorkloadId::from_env()?)
        .ttl(Duration::from_secs(15))
        .build()?; // wrong combinations are refused here, with the arithmetic in the message
    elector
        .run_until(shutdown, |leadership| {
            let effects = effects.clone();
            async move {
                let mut database = open(&effects).await?;
                while leadership.is_leader_now() {
                    forward_batch(&mut database, &leadership).await?;
                }
                anyhow::Ok(())
            }
        })
        .await?;
    Ok(())
}

async fn open(path: &str) -> anyhow::Result<SqliteConnection> {
    let mut database = SqliteConnection::connect(&format!("sqlite:{path}?mode=rwc")).await?;
    Fence::install(&mut database).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL)")
        .execute(&mut database)
        .await?;
    Ok(database)
}

/// One effect: the term is admitted in the same transaction, so a late one is refused (F-1).
async fn forward_batch(database: &mut SqliteConnection, leadership: &Leadership) -> anyhow::Result<()> {
    let term: Term = leadership.term();
    let mut tx = database.begin_with("BEGIN IMMEDIATE").await?;
    match Fence::new("batches").admit(&mut tx, &term).await {
        Ok(()) => {}
        Err(FenceError::Stale(_)) => {
            leadership.fence_refused();
            return Ok(());
        }
        Err(FenceError::Store(error)) => return Err(error.into()),
    }
    sqlx::query("INSERT INTO batches (epoch) VALUES (?)").bind(term.epoch as i64).execute(&mut *tx).await?;
    tx.commit().await?;
    tokio::select! {
        () = leadership.stop_requested() => {}
        () = tokio::time::sleep(Duration::from_millis(500)) => {}
    }
    Ok(())
}
