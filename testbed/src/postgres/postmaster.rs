//! One run of a server: its processes, from start to end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use super::binaries::PostgresBinaries;
use crate::{
    processes,
    supervisor::{Ending, supervisor},
    wait::wait_until,
};

/// Includes recovery after a crash.
const READY_LIMIT: Duration = Duration::from_secs(120);

const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A running postmaster. Dropping it ends the server as `pg_ctl stop -m immediate` does.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
    pid: Pid,
    data: PathBuf,
    ended: bool,
}

impl Postmaster {
    pub(super) fn spawn(
        binaries: &PostgresBinaries,
        data: &Path,
        conf: &Path,
        hba: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = binaries.command("postgres", Ending::Quit, data)?;
        command.arg("-D").arg(data).stdout(log.try_clone()?).stderr(log);
        command.arg(format!("--config_file={}", conf.display())).arg(format!("--hba_file={}", hba.display()));
        let child = command.spawn().context("cannot start postgres")?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid, data: data.to_owned(), ended: false })
    }

    /// Whether it takes connections; an error if it has ended.
    pub(super) fn is_ready(&mut self) -> anyhow::Result<bool> {
        if self.has_ended()? {
            bail!("postgres has ended");
        }
        // The lock file of an earlier run that was killed says `ready` too.
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        Ok(lines.first().is_some_and(|pid| pid.parse() == Ok(self.pid.as_raw_nonzero().get()))
            && lines.get(7) == Some(&"ready"))
    }

    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        if !self.ended && self.child.try_wait().context("cannot wait for postgres")?.is_some() {
            self.ended = true;
            supervisor()?.forget(self.pid);
        }
        Ok(self.ended)
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.ended {
            bail!("postgres has ended");
        }
        rustix::process::kill_process(self.pid, signal)
            .with_context(|| format!("cannot send {signal:?} to postgres"))
    }

    /// Stops all of its processes by SIGSTOP; [`all_stopped`](Self::all_stopped) says when they have.
    pub(super) fn stop_all(&self) -> anyhow::Result<Vec<Pid>> {
        self.signal(Signal::STOP)?;
        // Only then can no further process be started.
        let start = Instant::now();
        while !processes::has_stopped(self.pid)? {
            if start.elapsed() > STOP_LIMIT {
                bail!("postgres did not stop on SIGSTOP within {STOP_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let mut all = processes::descendants(self.pid)?;
        for pid in &all {
            let _ = rustix::process::kill_process(*pid, Signal::STOP); // it may have ended meanwhile
        }
        all.push(self.pid);
        Ok(all)
    }

    pub(super) fn resume_all(&self) -> anyhow::Result<()> {
        for pid in processes::descendants(self.pid)? {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
        self.signal(Signal::CONT)
    }

    /// SIGKILL to all of its processes at once: none gets to do another thing.
    pub(super) fn kill_all(&mut self) -> anyhow::Result<Vec<Pid>> {
        if self.has_ended()? {
            return Ok(Vec::new());
        }
        let all = self.stop_all()?;
        for pid in &all {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        Ok(all)
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("could not stop a server: {error:#}");
        }
    }
}

impl Postmaster {
    fn end(&mut self) -> anyhow::Result<()> {
        if !self.has_ended()? {
            self.resume_all()?;
            self.signal(Signal::QUIT)?;
        }
        let start = Instant::now();
        while !self.has_ended()? {
            if start.elapsed() > Duration::from_secs(3) {
                self.kill_all()?;
                self.child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Frees the System V shared memory of a server that was killed and isn't started again.
pub(super) fn free_shared_memory(data: &Path) {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    if let Some(id) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        let _ = Command::new("ipcrm").args(["-m", id]).output(); // some systems lack the program: 56 bytes
    }
}

/// Waits for a server to take connections.
pub(super) async fn ready(mut is_ready: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_ready()? {
        if start.elapsed() > READY_LIMIT {
            bail!("postgres takes no connections after {READY_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}

pub(super) async fn all_stopped(pids: &[Pid]) -> anyhow::Result<()> {
    wait_until("all processes of postgres have stopped", STOP_LIMIT, async || {
        pids.iter().all(|pid| processes::has_stopped(*pid).unwrap_or(false))
    })
    .await
}

pub(super) async fn all_ended(pids: &[Pid]) -> anyhow::Result<()> {
    wait_until("all processes of postgres have ended", STOP_LIMIT, async || {
        pids.iter().all(|pid| processes::has_ended(*pid).unwrap_or(false))
    })
    .await
}

pub(super) async fn ended(mut has_ended: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !has_ended()? {
        if start.elapsed() > STOP_LIMIT {
            bail!("postgres did not end within {STOP_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(())
}
