//! A disk that something else may fill.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::supervisor::Folder;

/// A small file system of its own, in memory. Dropping it unmounts it, also while its files are in use.
#[derive(Debug)]
pub struct SmallDisk(Folder);

impl SmallDisk {
    /// Mounts one of so many megabytes.
    ///
    /// # Errors
    /// Without root rights, or where these don't suffice to mount anything.
    pub fn mount(megabytes: u32) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a disk that is to become full has to be mounted, which needs root rights: run this as root"
        );
        let folder = Folder::new("disk")?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0711"), "leasehold"]);
        run(mount.arg(folder.path()))?;
        Ok(Self(folder))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    /// The file system's, but that it is full.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        let page = [7; 4096];
        loop {
            match filler.write_all(&page) {
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                written => written?,
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    ///
    /// # Errors
    /// The file system's.
    pub fn make_room(&self) -> std::io::Result<()> {
        fs::remove_file(self.filler())
    }

    fn filler(&self) -> std::path::PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg("-l").arg(self.path())) {
            tracing::warn!(%error, "could not unmount a small disk");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}
