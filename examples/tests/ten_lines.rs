//! The program of the README's ten lines, as two real processes on one file: stopped in each way that it can be
//! stopped, it ends soon, has released the lease, and the other goes on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lease_core::{HistoryEvent, LeaseBackend, LeaseName, admin};
use lease_sqlite::{Sqlite, SqliteConfig};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, SqliteConnection};

/// Far less than a ttl or a stop budget: whoever needs those has not handed over.
const SOON: Duration = Duration::from_secs(5);
/// For what isn't judged by its speed.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_signal_ends_it_soon_with_the_lease_released_and_handed_over() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut present = place.start("first")?;
    for (epoch, signal) in [(1, Signal::INT), (2, Signal::TERM)] {
        place.writes_of(epoch, LIMIT).await?;
        let next = place.start(&format!("after-{epoch}"))?;
        place.waits(&next).await?;

        let begun = Instant::now();
        let ended = present.stop(signal, SOON).await.with_context(|| format!("{signal:?}"))?;
        ensure!(ended.success(), "{signal:?}: {ended}");
        place.writes_of(epoch + 1, SOON.saturating_sub(begun.elapsed())).await?;
        ensure!(place.history().await?.contains(&(epoch, HistoryEvent::Released)), "{signal:?}");
        present = next;
    }
    ensure!(present.stop(Signal::TERM, SOON).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_step_down_hands_over_and_leaves_it_running() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut first = place.start("first")?;
    place.writes_of(1, LIMIT).await?;
    let mut second = place.start("second")?;
    place.waits(&second).await?;

    let store = place.store().await?;
    admin::request_step_down(&store, &lease(), "this test").await?;
    place.writes_of(2, SOON).await?;
    ensure!(place.history().await?.contains(&(1, HistoryEvent::SteppedDown)));
    ensure!(first.0.try_wait()?.is_none(), "it stands by again");
    for process in [&mut first, &mut second] {
        ensure!(process.stop(Signal::TERM, SOON).await?.success());
    }
    Ok(())
}

#[test]
fn the_readmes_lines_are_this_programs() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
    };
    let (readme, program) = (read("../README.md"), read("src/bin/ten_lines.rs"));
    let lines = readme.split("## Ten lines of code\n\n```rust\n").nth(1).expect("the section");
    let lines = lines.split("```").next().expect("the code").trim();
    assert!(lines.contains("should_continue") && program.contains(lines), "not in the program:\n{lines}");
}

// === two processes and their files ===

fn lease() -> LeaseName {
    LeaseName::new("outbox-forwarder").expect("a valid name")
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn start(&self, workload: &str) -> anyhow::Result<Process> {
        let log = std::fs::File::create(self.path(workload))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_ten_lines"));
        command.current_dir(self.0.path()).env("LEASEHOLD_WORKLOAD_ID", workload).env("RUST_LOG", "info");
        Ok(Process(command.stderr(log).spawn()?, workload.to_owned()))
    }

    async fn store(&self) -> anyhow::Result<Sqlite> {
        Ok(Sqlite::connect(SqliteConfig::new(self.path("leases.sqlite"))?).await?)
    }

    /// Waits until the process stands by.
    async fn waits(&self, process: &Process) -> anyhow::Result<()> {
        until("it stands by", LIMIT, async || {
            Ok(std::fs::read_to_string(self.path(&process.1))?.contains("standing by"))
        })
        .await
    }

    /// Waits until the term with this epoch has written, and no other than it since.
    async fn writes_of(&self, epoch: i64, limit: Duration) -> anyhow::Result<()> {
        let newest = async || -> Result<Option<i64>, sqlx::Error> {
            let mut outbox =
                SqliteConnection::connect(&format!("sqlite:{}", self.path("outbox.sqlite").display()))
                    .await?;
            let newest = "SELECT epoch FROM batches ORDER BY id DESC LIMIT 1";
            sqlx::query_scalar(newest).fetch_optional(&mut outbox).await
        };
        // Before the first one has begun there is neither a file nor a table.
        let written = async || Ok(newest().await.is_ok_and(|newest| newest == Some(epoch)));
        until(&format!("term {epoch} writes"), limit, written).await
    }

    /// Each event with its epoch.
    async fn history(&self) -> anyhow::Result<Vec<(i64, HistoryEvent)>> {
        let rows = self.store().await?.history(&lease(), 100).await?;
        Ok(rows.iter().map(|row| (row.epoch as i64, row.event_type)).collect())
    }
}

/// Killed when dropped.
struct Process(Child, String);

impl Process {
    async fn stop(&mut self, signal: Signal, limit: Duration) -> anyhow::Result<ExitStatus> {
        kill_process(Pid::from_child(&self.0), signal)?;
        let mut ended = None;
        until("it ends", limit, async || {
            ended = self.0.try_wait()?;
            Ok(ended.is_some())
        })
        .await?;
        ended.context("it has ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(
    what: &str,
    limit: Duration,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !holds().await? {
        ensure!(begun.elapsed() < limit, "timed out after {limit:?} waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
