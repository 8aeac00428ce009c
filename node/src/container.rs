//! A container: a process with a root, a process table and rights of its own, in its pod's network.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use lease_testbed::{Process, wait_until};
use rustix::process::{Pid, Signal};

use crate::{environment, image::Image, network::PodNetwork, private::OUTSIDE, volumes::Volumes};

const SETUP: &str = include_str!("container.sh");

const START_LIMIT: Duration = Duration::from_secs(30);

/// Everything that a container is started from.
pub(crate) struct ContainerPlan {
    env: Vec<String>,
    command: Vec<String>,
    /// `ro` or `rw`, the source on this machine, the path in the container.
    mounts: Vec<(&'static str, PathBuf, String)>,
    /// Arguments of setpriv, with blanks between them.
    rights: String,
    read_only: bool,
}

/// A container that runs.
pub(crate) struct Running {
    process: Process,
    /// The main process, which is number 1 in its own table.
    pid: Pid,
}

impl ContainerPlan {
    /// `hosts` becomes /etc/hosts.
    pub(crate) fn new(
        pod: &Pod,
        container: &Container,
        image: &Image,
        volumes: &Volumes,
        hosts: &Path,
    ) -> anyhow::Result<Self> {
        let env = environment::of(pod, container)?;
        let mut command = container.command.clone().unwrap_or_else(|| image.entrypoint.clone());
        command.extend(container.args.iter().flatten().cloned());
        if command.is_empty() {
            bail!("no command specified: give the container a command or the image an entrypoint");
        }
        let references = |text: &String| {
            text.contains("$$") || env.keys().any(|name| text.contains(&format!("$({name})")))
        };
        if let Some(text) = command.iter().chain(env.values()).find(|text| references(text)) {
            bail!("$(NAME) and $$ are not offered here: {text}");
        }
        let mut mounts = vec![("rw", hosts.to_owned(), "/etc/hosts".to_owned())];
        for (path, here) in &image.files {
            let here = here.canonicalize().with_context(|| format!("the image's file {}", here.display()))?;
            mounts.push(("ro", here, path.clone()));
        }
        for mount in container.volume_mounts.iter().flatten() {
            let volume =
                volumes.get(&mount.name).with_context(|| format!("there is no volume {}", mount.name))?;
            let writable = volume.writable && mount.read_only != Some(true);
            mounts.push((if writable { "rw" } else { "ro" }, volume.path.clone(), mount.mount_path.clone()));
        }
        // A mount within another comes after it.
        mounts.sort_by_key(|(_, _, path)| path.split('/').filter(|part| !part.is_empty()).count());
        let context = container.security_context.as_ref();
        Ok(Self {
            command,
            mounts,
            rights: rights(pod, container, image)?,
            read_only: context.and_then(|context| context.read_only_root_filesystem) == Some(true),
            env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        })
    }

    /// Starts it; its output is appended to `log`. Returns when its main process has begun.
    pub(crate) async fn start(
        self,
        network: &PodNetwork,
        root: &Path,
        log: &Path,
    ) -> anyhow::Result<Running> {
        fs::create_dir_all(root)?;
        let mut command = Process::command("nsenter")?
            .args(network.enter())
            .args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
            .args(["/bin/sh", "-c", SETUP, "node-container"])
            .arg(root)
            .arg(log)
            .arg(self.read_only.to_string())
            .arg(self.rights);
        for (how, here, there) in &self.mounts {
            command = command.arg(how).arg(here).arg(there);
        }
        let process = command.arg("--").args(self.env).args(self.command).current_dir(root).spawn()?;
        let started = process.wait_for_line("started ", START_LIMIT).await;
        let line = started
            .map_err(|_| anyhow::anyhow!("cannot set the container up: {}", process.lines().join("; ")))?;
        let pid = line.trim_start_matches("started ").parse().ok().and_then(Pid::from_raw);
        let pid = pid.context("a container has no process")?;
        // Until it has become the program itself, a signal to it would be lost, since it is number 1 of its table. Only
        // its earlier programs have our environment.
        let environment = format!("/proc/{}/environ", pid.as_raw_nonzero());
        wait_until("the container has become its program", START_LIMIT, async || {
            let ours = |bytes: Vec<u8>| bytes.windows(OUTSIDE.len()).any(|part| part == OUTSIDE.as_bytes());
            process.exit_status().is_some() || !fs::read(&environment).is_ok_and(ours)
        })
        .await?;
        Ok(Running { process, pid })
    }
}

/// As a kubelet reports it.
pub(crate) fn exit_code(status: ExitStatus) -> i32 {
    status.signal().map_or(status.code().unwrap_or(255), |signal| 128 + signal)
}

/// Arguments of setpriv.
fn rights(pod: &Pod, container: &Container, image: &Image) -> anyhow::Result<String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let set_user = own.run_as_user.or(of_pod.run_as_user);
    let user = set_user.unwrap_or(image.user.0.into());
    let set_group = own.run_as_group.or(of_pod.run_as_group);
    let group = set_group.unwrap_or(if set_user.is_none() { image.user.1.into() } else { 0 });
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) && user == 0 {
        bail!("container has runAsNonRoot and image will run as root");
    }
    let groups: BTreeSet<i64> = of_pod.fs_group.into_iter().chain([group]).collect();
    let groups: Vec<String> = groups.iter().map(i64::to_string).collect();
    let mut rights = format!("--reuid={user} --regid={group} --groups={} --inh-caps=-all", groups.join(","));
    let capabilities = own.capabilities.unwrap_or_default();
    if capabilities.drop.is_some() {
        let added = capabilities.add.unwrap_or_default();
        let added: String = added.iter().map(|name| format!(",+{}", name.to_lowercase())).collect();
        rights += &format!(" --bounding-set=-all{added}");
    }
    if own.allow_privilege_escalation == Some(false) {
        rights += " --no-new-privs";
    }
    Ok(rights)
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the main process.
    pub(crate) fn signal(&self, signal: Signal) {
        // Our child reaps number 1 of the table: while the child runs, the id is not another's.
        if self.process.exit_status().is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Waits for its end, and returns its exit code as kubelets report it. It is not asked to end.
    pub(crate) async fn wait(&self) -> i32 {
        loop {
            if let Ok(status) = self.process.wait(Duration::from_secs(3600)).await {
                return exit_code(status);
            }
        }
    }
}
