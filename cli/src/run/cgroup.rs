//! A cgroup (v2) for the command: the kernel kills all that is in it at one word, whoever a set-uid program became.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lease_core::Clock;
use rustix::process::getpid;

#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below this process's own, and tries whether processes can be moved there.
    pub(super) fn create() -> io::Result<Self> {
        let own = own_folder()?;
        let names = own_names()?;
        remove_leftovers(&own, &names);
        let name = format!("{names}{}-{}", getpid().as_raw_nonzero(), Clock::boot().now().0);
        let made = Self::at(own.join(name));
        with_path(&made.path, fs::create_dir(&made.path))?;
        let tried = made.try_out(&own);
        if tried.is_err() {
            made.remove();
        }
        tried.map(|()| made)
    }

    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn try_out(&self, own: &Path) -> io::Result<()> {
        let kill = self.path.join("cgroup.kill");
        with_path(&kill, fs::metadata(&kill))?; // since Linux 5.14
        let (there, back) = (self.path.join("cgroup.procs"), own.join("cgroup.procs"));
        with_path(&there, fs::write(&there, "0"))?;
        with_path(&back, fs::write(&back, "0"))
    }

    /// A process that writes "0" to it enters.
    pub(super) fn entrance(&self) -> io::Result<OwnedFd> {
        let path = self.path.join("cgroup.procs");
        with_path(&path, File::options().write(true).open(&path)).map(OwnedFd::from)
    }

    pub(super) fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Once nothing is left in it.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// How the names begin that are made in this PID namespace: only here its numbers tell who is dead.
fn own_names() -> io::Result<String> {
    let namespace = Path::new("/proc/self/ns/pid");
    Ok(format!("leasehold-{}-", with_path(namespace, fs::metadata(namespace))?.ino()))
}

/// Those whose watchdog is dead: nobody enters them any more. One that isn't empty stays.
fn remove_leftovers(own: &Path, names: &str) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let watchdog = name.strip_prefix(names).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let number = watchdog.filter(|pid| pid.parse::<u32>().is_ok());
        if number.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The folder of this process's own cgroup.
fn own_folder() -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 is mounted");
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(missing)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folder = mounts.lines().find_map(|mount| {
        // "41 31 0:38 ROOT MOUNT-POINT OPTIONS … - TYPE SOURCE OPTIONS"
        let (mount, kind) = mount.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| Path::new(point).join(below))
    });
    folder.ok_or_else(missing)
}

fn with_path<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
