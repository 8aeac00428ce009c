//! A container: a process with a root, a process table and rights of its own, in its pod's network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::process::{Pid, Signal};

use super::{environment, image::Image, network::PodNetwork, private::OUTSIDE, volumes::Volumes};
use crate::{
    process::Process,
    processes,
    run::run,
    supervisor::{Ending, supervisor},
    wait_until,
};

const SETUP: &str = include_str!("container.sh");

const START_LIMIT: Duration = Duration::from_secs(30);

/// What container runtimes leave to root.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "chown",
    "dac_override",
    "fsetid",
    "fowner",
    "mknod",
    "net_raw",
    "setgid",
    "setuid",
    "setfcap",
    "setpcap",
    "net_bind_service",
    "sys_chroot",
    "kill",
    "audit_write",
];

/// Everything that a container is started from.
pub(super) struct Plan {
    env: BTreeMap<String, String>,
    command: Vec<String>,
    folder: Option<String>,
    /// `ro` or `rw`, what is here, where it is to be.
    mounts: Vec<(&'static str, PathBuf, String)>,
    rights: Vec<String>,
    read_only: bool,
}

/// One that runs.
pub(super) struct Running {
    process: Process,
    /// The main process, which is number 1 in its own table.
    pid: Pid,
    env: BTreeMap<String, String>,
    rights: Vec<String>,
}

// === impl Plan ===

impl Plan {
    /// `env` is the whole environment; `hosts` becomes /etc/hosts.
    pub(super) fn new(
        pod: &Pod,
        container: &Container,
        image: &Image,
        env: BTreeMap<String, String>,
        volumes: &Volumes,
        hosts: &Path,
        message: &Path,
    ) -> anyhow::Result<Self> {
        let expanded = |texts: &[String]| texts.iter().map(|text| environment::expand(text, &env)).collect();
        let command: Vec<String> =
            container.command.as_deref().map_or_else(|| image.entrypoint.clone(), expanded);
        let args: Vec<String> = container.args.as_deref().map(expanded).unwrap_or_default();
        let command: Vec<String> = command.into_iter().chain(args).collect();
        if command.is_empty() {
            bail!("no command specified: give the container a command or the image an entrypoint");
        }
        let mut mounts = vec![
            ("rw", hosts.to_owned(), "/etc/hosts".to_owned()),
            (
                "rw",
                message.to_owned(),
                container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into()),
            ),
        ];
        for (path, here) in &image.files {
            let here = here.canonicalize().with_context(|| format!("the image's file {}", here.display()))?;
            mounts.push(("ro", here, path.clone()));
        }
        for mount in container.volume_mounts.iter().flatten() {
            let mut source = volumes
                .get(&mount.name)
                .with_context(|| format!("there is no volume {}", mount.name))?
                .clone();
            let below = match &mount.sub_path_expr {
                Some(text) => Some(environment::expand(text, &env)),
                None => mount.sub_path.clone(),
            };
            if let Some(below) = below.filter(|below| !below.is_empty()) {
                source.push(below);
                if !source.exists() {
                    fs::create_dir_all(&source)?;
                }
            }
            // Secrets and their like can't be written to, as with a kubelet.
            let written = |name: &str| {
                let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
                volumes.filter(|volume| volume.name == name).all(|volume| {
                    volume.secret.is_none()
                        && volume.config_map.is_none()
                        && volume.projected.is_none()
                        && volume.downward_api.is_none()
                })
            };
            let writable = mount.read_only != Some(true) && written(&mount.name);
            mounts.push((if writable { "rw" } else { "ro" }, source, mount.mount_path.clone()));
        }
        // What lies in another comes after it.
        mounts.sort_by_key(|(_, _, path)| path.split('/').filter(|part| !part.is_empty()).count());
        let context = container.security_context.as_ref();
        Ok(Self {
            command,
            folder: container.working_dir.clone(),
            mounts,
            rights: rights(pod, container, image)?,
            read_only: context.and_then(|context| context.read_only_root_filesystem) == Some(true),
            env,
        })
    }

    /// Starts it; what it prints is appended to `log`. Returns when its main process has begun.
    pub(super) async fn start(
        self,
        network: &PodNetwork,
        root: &Path,
        log: &Path,
    ) -> anyhow::Result<Running> {
        fs::create_dir_all(root)?;
        let mut command = Process::command("nsenter")?
            .args(network.enter())
            .args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
            .args(["/bin/sh", "-c", SETUP, "testbed-container"])
            .arg(root)
            .arg(log)
            .arg(self.read_only.to_string());
        for (how, here, there) in &self.mounts {
            command = command.arg(how).arg(here).arg(there);
        }
        let process = command
            .arg("--")
            .args(inside(&self.rights, self.folder.as_deref(), &self.env))
            .args(&self.command)
            .current_dir(root)
            .spawn()?;
        let started = process.wait_for_line("started ", START_LIMIT).await;
        let line = started
            .map_err(|_| anyhow::anyhow!("cannot set the container up: {}", process.lines().join("; ")))?;
        let pid = line.trim_start_matches("started ").parse().ok().and_then(Pid::from_raw);
        let pid = pid.context("a container has no process")?;
        // Until it has become the program itself, a signal to it would be lost: it is the first of its table. Only
        // what goes before has our environment.
        let environment = format!("/proc/{}/environ", pid.as_raw_nonzero());
        wait_until("the container has become its program", START_LIMIT, async || {
            let ours = |bytes: Vec<u8>| bytes.windows(OUTSIDE.len()).any(|part| part == OUTSIDE.as_bytes());
            process.exit_status().is_some() || !fs::read(&environment).is_ok_and(ours)
        })
        .await?;
        Ok(Running { process, pid, env: self.env, rights: self.rights })
    }
}

/// Becomes whoever the program is to run as, with its environment and nothing else.
fn inside(rights: &[String], folder: Option<&str>, env: &BTreeMap<String, String>) -> Vec<String> {
    let mut args = vec!["setpriv".to_owned()];
    args.extend_from_slice(rights);
    args.extend(["env", "-i", "-C", folder.unwrap_or("/")].map(str::to_owned));
    // The supervisor knows descendants by its mark.
    if let Ok(mark) = supervisor() {
        args.push(mark.marking());
    }
    args.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
    args
}

/// Arguments of setpriv.
fn rights(pod: &Pod, container: &Container, image: &Image) -> anyhow::Result<Vec<String>> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let said_user = own.run_as_user.or(of_pod.run_as_user);
    let user = said_user.unwrap_or(image.user.0.into());
    let said_group = own.run_as_group.or(of_pod.run_as_group);
    let group = said_group.unwrap_or(if said_user.is_none() { image.user.1.into() } else { 0 });
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) && user == 0 {
        bail!("container has runAsNonRoot and image will run as root");
    }
    let groups: BTreeSet<i64> =
        of_pod.supplemental_groups.into_iter().flatten().chain(of_pod.fs_group).chain([group]).collect();
    let groups: Vec<String> = groups.iter().map(i64::to_string).collect();
    let mut rights = vec![
        format!("--reuid={user}"),
        format!("--regid={group}"),
        format!("--groups={}", groups.join(",")),
        "--inh-caps=-all".to_owned(),
    ];
    if own.privileged != Some(true) {
        let named = |name: &String| name.to_lowercase().trim_start_matches("cap_").to_owned();
        let capabilities = own.capabilities.unwrap_or_default();
        let dropped: BTreeSet<String> = capabilities.drop.iter().flatten().map(named).collect();
        let added: BTreeSet<String> = capabilities.add.iter().flatten().map(named).collect();
        let mut kept: BTreeSet<String> = DEFAULT_CAPABILITIES.map(str::to_owned).into();
        kept.retain(|name| !dropped.contains(name) && !dropped.contains("all"));
        kept.extend(added);
        let kept: Vec<String> = kept.iter().map(|name| format!(",+{name}")).collect();
        rights.push(format!("--bounding-set=-all{}", kept.concat()));
    }
    if own.allow_privilege_escalation == Some(false) {
        rights.push("--no-new-privs".to_owned());
    }
    Ok(rights)
}

// === impl Running ===

impl Running {
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// To the main process.
    pub(super) fn signal(&self, signal: Signal) {
        // Number 1 of its table is reaped by our child; while that runs, the id is no other's.
        if self.process.exit_status().is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Waits for its end; it is not asked to.
    pub(super) async fn wait(&self) -> (i32, Option<i32>) {
        loop {
            if let Ok(status) = self.process.wait(Duration::from_secs(3600)).await {
                return code(status);
            }
        }
    }

    /// Runs a command in it, as the container's user, and fails as that does.
    pub(super) async fn exec(&self, args: &[String], limit: Duration) -> anyhow::Result<()> {
        let mut command = supervisor()?.command(Path::new("/usr/bin/env"), Ending::Kill)?;
        command
            .args(["nsenter", "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd", "--target"])
            .arg(self.pid.as_raw_nonzero().to_string())
            .args(inside(&self.rights, None, &self.env))
            .args(args);
        run(args.first().map_or("a command", String::as_str), command, limit).await.map(drop)
    }
}

/// All processes of a container whose main process is `pid`.
pub(crate) fn processes(pid: Pid) -> Vec<Pid> {
    let mut all = vec![pid];
    all.extend(processes::descendants(pid).unwrap_or_default());
    all
}

/// An empty file that everybody may write a last message to.
pub(super) fn message_file(path: &Path) -> anyhow::Result<()> {
    fs::write(path, "")?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o666))?)
}

/// A container's exit code, as kubelets tell it, and its signal.
fn code(status: ExitStatus) -> (i32, Option<i32>) {
    match status.signal() {
        Some(signal) => (128 + signal, Some(signal)),
        None => (status.code().unwrap_or(255), None),
    }
}
