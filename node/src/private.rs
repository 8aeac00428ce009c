//! A private network and table of mounts for the whole program.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use lease_testbed::ControlPlane;

/// Names the network that the program was in before, so that a descendant in another one can tell.
pub(crate) const OUTSIDE: &str = "LEASE_NODE_OUTSIDE";

/// Fails when a program or the right to make these namespaces is missing.
const TRIAL: &str = "for each in nsenter setpriv mount ip chroot env sleep; do
    command -v $each >/dev/null || { echo there is no program $each >&2; exit 1; }
done";

/// Moves this program into a private network and a private table of mounts, by starting it anew there with the same
/// arguments, environment and process id. Returns when it is there, with `lo` up. The system itself is not changed,
/// nothing in there reaches the outside, and all of it vanishes with the last process.
///
/// Call it first in `main`, before any thread. Whatever needs the outside (building, downloading) comes before it; the
/// control plane's programs are built here unless they are in the cache.
///
/// # Errors
/// When root rights, namespaces or programs are missing; the message says what is needed.
pub fn in_private_network() -> anyhow::Result<()> {
    if is_private()? {
        return Ok(());
    }
    requirements()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ControlPlane::prepare())?;
    drop(runtime);
    let script = r#"ip link set lo up && exec "$@""#;
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "/bin/sh", "-c", script, "private-network"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(OUTSIDE, network()?)
        .exec();
    Err(error).context("cannot start unshare")
}

/// An error unless [`in_private_network`] has been called.
pub(crate) fn require() -> anyhow::Result<()> {
    if !is_private()? {
        bail!("pods run in a private network only: call in_private_network() first in main");
    }
    requirements()
}

fn is_private() -> anyhow::Result<bool> {
    match std::env::var_os(OUTSIDE) {
        Some(outside) => Ok(network()? != Path::new(&outside)),
        None => Ok(false),
    }
}

fn network() -> anyhow::Result<PathBuf> {
    fs::read_link("/proc/self/ns/net").context("this needs Linux with network namespaces and /proc")
}

fn requirements() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("running pods needs root rights, for network and mount namespaces: run this as root");
    }
    let namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private"];
    let tried = Command::new("unshare").args(namespaces).args(["/bin/sh", "-c", TRIAL]).output();
    let tried = tried.context("running pods needs the program unshare: install util-linux")?;
    if !tried.status.success() {
        bail!(
            "running pods needs the programs of util-linux, mount, coreutils and iproute2, and the right to make \
             namespaces (CAP_SYS_ADMIN; in a container: --privileged): {}",
            String::from_utf8_lossy(&tried.stderr).trim_end()
        );
    }
    Ok(())
}
