//! A program that is run beside a container, as `kubectl exec` does it.

use std::{fs, time::Duration};

use anyhow::Context;
use lease_testbed::Process;
use rustix::process::Pid;

use crate::private::OUTSIDE;

/// The end of a program that was run in a pod.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// All that it wrote, to both streams.
    pub lines: Vec<String>,
}

/// Runs `command` with the namespaces, root, environment, user and rights of the process `main`.
pub(crate) async fn exec(main: Pid, command: &[&str], limit: Duration) -> anyhow::Result<Executed> {
    let proc = format!("/proc/{}", main.as_raw_nonzero());
    let environment = fs::read(format!("{proc}/environ")).context("the container has ended")?;
    let environment = environment.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    let environment = environment.map(|variable| String::from_utf8_lossy(variable).into_owned());
    let environment: Vec<String> = environment.filter(|it| !it.starts_with(OUTSIDE)).collect();
    let status = fs::read_to_string(format!("{proc}/status")).context("the container has ended")?;
    let process = Process::command("nsenter")?
        .args(["--target", &main.as_raw_nonzero().to_string()])
        .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"])
        .arg("setpriv")
        .args(rights(&status)?)
        .args(["env", "-i"])
        .args(environment)
        .args(command)
        .spawn()?;
    let ended =
        process.wait(limit).await.with_context(|| format!("{command:?} said {:?}", process.lines()))?;
    Ok(Executed { code: crate::container::exit_code(ended), lines: process.lines() })
}

/// Arguments of setpriv that give what `/proc/PID/status` shows.
fn rights(status: &str) -> anyhow::Result<Vec<String>> {
    let field = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name));
        found.map(str::trim).with_context(|| format!("the kernel shows no {name}"))
    };
    let effective = |ids: &str| ids.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let groups: Vec<&str> = field("Groups:")?.split_whitespace().collect();
    let mut rights = vec![
        format!("--reuid={}", effective(field("Uid:")?)),
        format!("--regid={}", effective(field("Gid:")?)),
        if groups.is_empty() {
            "--clear-groups".to_owned()
        } else {
            format!("--groups={}", groups.join(","))
        },
        "--inh-caps=-all".to_owned(),
    ];
    if field("CapBnd:")?.bytes().all(|digit| digit == b'0') {
        rights.push("--bounding-set=-all".to_owned());
    }
    if field("NoNewPrivs:")? == "1" {
        rights.push("--no-new-privs".to_owned());
    }
    Ok(rights)
}
