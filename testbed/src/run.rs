//! Helper programs that run to their end.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;

use crate::supervisor::supervisor;

/// Runs a supervised command, called `name`, to its end; the error has what it printed.
pub(crate) async fn run(name: &str, command: Command, limit: Duration) -> anyhow::Result<Output> {
    let mut command = tokio::process::Command::from(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let running = Running::new(child.id())?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (mut out, mut err) =
        (child.stdout.take().context("no output")?, child.stderr.take().context("no output")?);
    let all =
        async { tokio::try_join!(child.wait(), out.read_to_end(&mut stdout), err.read_to_end(&mut stderr)) };
    let (status, ..) = tokio::time::timeout(limit, all)
        .await
        .with_context(|| format!("{name} took longer than {limit:?}"))??;
    drop(running);
    if !status.success() {
        let text = String::from_utf8_lossy(&stderr);
        bail!("{name} failed ({status}): {}{}", text.trim_end(), String::from_utf8_lossy(&stdout).trim_end());
    }
    Ok(Output { status, stdout, stderr })
}

/// A helper program that runs; ended and forgotten when the future that waits for it is dropped.
struct Running(Pid);

impl Running {
    fn new(pid: Option<u32>) -> anyhow::Result<Self> {
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        pid.map(Self).context("a process that was just started has no pid")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its own children too; an error means that all have ended.
        let _ = rustix::process::kill_process_group(self.0, Signal::KILL);
        if let Ok(supervisor) = supervisor() {
            supervisor.forget(self.0);
        }
    }
}
