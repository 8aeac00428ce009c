//! Shared by the tests of this backend.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(unused_imports, reason = "as above")]

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lease_core::{Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record};
use lease_sqlite::{Sqlite, SqliteConfig};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

pub use lease_conformance::by_hand::{TTL, acquired, candidate, free, released, renewed};

/// A folder of the test's own, and the lease file in it.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("leases.sqlite")
    }

    pub fn config(&self) -> SqliteConfig {
        SqliteConfig::new(self.file()).expect("a usable path")
    }

    pub async fn open(&self) -> Sqlite {
        Sqlite::connect(self.config()).await.expect("the lease file opens")
    }

    /// An administrator's connection, by no code of ours.
    pub async fn shell(&self) -> SqliteConnection {
        shell(&self.file()).await
    }
}

pub async fn shell(path: &Path) -> SqliteConnection {
    // Patient: many write in turn, each with its fsyncs, on a disk that others use.
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(120));
    options.connect().await.expect("a plain connection")
}

/// For tests that aren't asynchronous themselves.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Runs `future` for a number of steps, and then drops it: 0, not even polled; 1, polled once; 2, polled once and
/// woken; 3, polled twice; … `None` if it was dropped before it was done.
pub async fn stopped<F: Future>(steps: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = steps;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1; // for the waking, which is when this closure runs again
                Poll::Pending
            }
        }
    })
    .await
}

pub fn name() -> LeaseName {
    LeaseName::new("outbox-forwarder").expect("a valid name")
}

pub async fn observe(store: &Sqlite) -> Observation {
    store.observe(&name()).await.expect("the lease can be read")
}

/// Writes, expecting that it is applied.
pub async fn put(store: &Sqlite, expected: &Observation, record: &Record, change: Change) -> Observation {
    match store.put_if(&name(), expected, record, change).await.expect("the write is answered") {
        PutOutcome::Written(now) => now,
        PutOutcome::Conflict(now) => panic!("{change:?} met a conflict: {now:?}"),
    }
}

/// A register that is free, as the core makes it.
pub async fn init(store: &Sqlite) -> Observation {
    let absent = observe(store).await;
    put(store, &absent, &free(&absent), Change::Init).await
}

pub async fn acquire(store: &Sqlite, expected: &Observation, holder: &str) -> Observation {
    put(store, expected, &acquired(expected, holder), Change::Acquire).await
}

pub async fn renew(store: &Sqlite, expected: &Observation) -> Observation {
    put(store, expected, &renewed(expected), Change::Renew).await
}

pub async fn release(store: &Sqlite, expected: &Observation) -> Observation {
    put(store, expected, &released(expected), Change::Release).await
}
