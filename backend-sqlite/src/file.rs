//! Which file is this? Two processes that take different files for the same one both lead, for ever.
//!
//! Everything here asks by path (`stat`). Opening the file to look would be worse than not looking: when a process
//! closes any descriptor of a file, POSIX drops all the locks that the process has on it, SQLite's too.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lease_core::{BackendError, Lineage};

use crate::config::folder_of;

/// The file as it was opened: the database, and what SQLite keeps beside it for as long as it is open. Whoever
/// deletes or exchanges one of the three splits the processes that share them.
#[derive(Clone, Debug)]
pub(crate) struct LeaseFile {
    /// The path as it was given, and what is beside the file that it leads to.
    paths: [PathBuf; 3],
    identities: [Identity; 3],
}

/// Device and inode. No other file gets the same while this one is open.
type Identity = (u64, u64);

impl LeaseFile {
    /// The file that the path names at this moment.
    pub(crate) fn identify(path: &Path) -> Result<Self, BackendError> {
        let failed =
            |error: io::Error| BackendError::not_applied(gone(path, &error.to_string())).with_source(error);
        let database = path.canonicalize().map_err(failed)?;
        let beside = |suffix: &str| {
            let mut name = database.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let paths = [path.to_owned(), beside("-wal"), beside("-shm")];
        let identities = identify(&paths).map_err(failed)?;
        Ok(Self { paths, identities })
    }

    /// The file's lineage.
    pub(crate) fn lineage(&self) -> Lineage {
        let (device, inode) = self.identities[0];
        Lineage(format!("{device}:{inode}"))
    }

    /// Does the path still name the files that were opened?
    ///
    /// Three `stat` calls on a local file system, a few microseconds: done in place, not on another thread.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let path = &self.paths[0];
        match identify(&self.paths) {
            Ok(identities) if identities == self.identities => Ok(()),
            Ok(identities) if identities[0] == self.identities[0] => {
                Err(BackendError::gone(gone(path, "its -wal or -shm file was replaced")))
            }
            Ok(_) => Err(BackendError::gone(gone(path, "another file is at its path now"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(BackendError::gone(gone(path, &error.to_string())))
            }
            Err(error) => {
                Err(BackendError::not_applied(format!("could not read the metadata of {}", path.display()))
                    .with_source(error))
            }
        }
    }
}

fn identify(paths: &[PathBuf; 3]) -> io::Result<[Identity; 3]> {
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    Ok([identity(&paths[0])?, identity(&paths[1])?, identity(&paths[2])?])
}

fn gone(path: &Path, what: &str) -> String {
    format!(
        "the lease file {} is not the one that was opened: it, or its -wal or -shm file, was deleted, moved or \
         replaced ({what}); see that the right files are in place, and start this process again",
        path.display()
    )
}

/// Refuses places where SQLite's locks don't reach every process. `path` need not exist.
pub(crate) fn check_place(path: &Path) -> Result<(), BackendError> {
    let place = if path.exists() { path.to_owned() } else { folder_of(path) };
    let shown = path.display();
    let found = rustix::fs::statfs(&place).map_err(|error| {
        BackendError::not_applied(format!("could not read the metadata of {shown}")).with_source(error)
    })?;
    if let Some(kind) = unsuitable(&found) {
        return Err(BackendError::refused(format!(
            "{shown} is on {kind}, where SQLite's locks can't be trusted between processes; put the lease file on a \
             local disk, or use Postgres, etcd or Kubernetes"
        )));
    }
    match std::fs::metadata(path) {
        Ok(found) => check_names(path, &found),
        Err(_) => Ok(()),
    }
}

/// A second name for the file would have a `-wal` of its own.
fn check_names(path: &Path, found: &Metadata) -> Result<(), BackendError> {
    let shown = path.display();
    if found.nlink() > 1 {
        return Err(BackendError::refused(format!(
            "{shown} has {} names (hard links), and SQLite keeps a -wal file per name: two processes could both \
             lead; remove the other names",
            found.nlink()
        )));
    }
    if is_mount_point(path) {
        return Err(BackendError::refused(format!(
            "{shown} is mounted by itself, and SQLite keeps files beside it that the other side doesn't see: two \
             processes could both lead; mount its folder instead"
        )));
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_: &Path) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn unsuitable(found: &rustix::fs::StatFs) -> Option<&'static str> {
    // The magic numbers of statfs(2) are 32 bits wide, whatever the platform's field is.
    kind_of_remote(found.f_type as u32)
}

/// File systems whose files other hosts, or a program, may change behind the kernel's locks.
#[cfg(target_os = "linux")]
fn kind_of_remote(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "NFS",
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x0000_564c => "NCP",
        0x786f_4256 => "a VirtualBox share",
        0xbacb_acbc => "a VMware share",
        0x7c7c_6673 => "a Parallels share",
        _ => return None,
    })
}

#[cfg(target_vendor = "apple")]
fn unsuitable(found: &rustix::fs::StatFs) -> Option<&'static str> {
    const MNT_LOCAL: u32 = 0x1000;
    (found.f_flags & MNT_LOCAL == 0).then_some("a network file system")
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn network_fuse_and_9p_are_refused_and_local_disks_are_not() {
        for magic in [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997] {
            assert!(kind_of_remote(magic).is_some(), "{magic:x}");
        }
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(kind_of_remote(local), None, "ext4, xfs, btrfs, tmpfs, overlay, zfs: {local:x}");
        }
    }
}
