//! The Unix socket: made with its permissions on it, never taken from a process that still serves it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::net::{UnixListener, UnixStream};

/// The time limit for finding out whether a socket is served.
const LIVE_LIMIT: Duration = Duration::from_secs(1);

/// The socket's file, as long as it is ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file that we made; a file that replaced it is not removed.
    made: (u64, u64),
    /// Held while the socket is ours: of two sidecars that find a stale file, one gets it.
    _lock: File,
}

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("{0} is served by another process: stop that one, or choose another --socket")]
    Live(PathBuf),
    #[error("{0} is there and is no socket: remove it, or choose another --socket")]
    NoSocket(PathBuf),
    #[error(
        "{file} belongs to user {owner}, and this sidecar, which is user {own}, can't replace it: {error}; a sidecar of that \
         user left it behind: stop it if it still runs, and remove the file as that user or as root, or choose another \
         --socket"
    )]
    Strangers { file: String, owner: u32, own: u32, error: io::Error },
    #[error(
        "{path} can't be made: {error}; the folder must be there and writable, or choose another --socket"
    )]
    Failed { path: PathBuf, error: io::Error },
}

/// Makes the socket at `path`. It appears there only once it has its permissions.
pub(super) async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), SocketError> {
    let failed = |error| SocketError::Failed { path: path.to_owned(), error };
    let lock_path = beside(path, "lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
    let lock = lock.map_err(|error| refused_at(&lock_path, error).unwrap_or_else(failed))?;
    if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        let live = error == rustix::io::Errno::WOULDBLOCK;
        return Err(if live { SocketError::Live(path.to_owned()) } else { failed(error.into()) });
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        // Another program may have made it without our lock.
        Ok(_) => match is_live(path).await {
            Ok(false) => {
                tracing::info!(socket = %path.display(), "a socket that nobody serves was left behind; it is replaced");
            }
            Ok(true) => return Err(SocketError::Live(path.to_owned())),
            Err(error) => return Err(refused_at(path, error).unwrap_or_else(failed)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let new = beside(path, "new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(refused_at(&new, error).unwrap_or_else(failed));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let made = identity(&new).map_err(failed)?;
    fs::rename(&new, path).map_err(|error| {
        let _ = fs::remove_file(&new);
        refused_at(path, error).unwrap_or_else(failed)
    })?;
    Ok((listener, SocketFile { path: path.to_owned(), made, _lock: lock }))
}

/// In a folder that several users share, a sticky one above all, `file` may be another's.
fn refused_at(file: &Path, error: io::Error) -> Result<SocketError, io::Error> {
    let (own, there) = (rustix::process::geteuid().as_raw(), fs::symlink_metadata(file));
    match there.map(|there| there.uid()) {
        Ok(owner) if owner != own && error.kind() == ErrorKind::PermissionDenied => {
            Ok(SocketError::Strangers { file: file.display().to_string(), owner, own, error })
        }
        _ => Err(error),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Whether the socket is served. Only a refused connection proves that it is not: a busy server may be slow to accept.
/// Fails if we may not ask.
async fn is_live(path: &Path) -> io::Result<bool> {
    match tokio::time::timeout(LIVE_LIMIT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        _ => Ok(true),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.sock");
        let (listener, file) = bind(&path, 0o600).await.expect("free");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path, 0o660).await, Err(SocketError::Live(_))), "while it is served");
        drop(listener);
        assert!(matches!(bind(&path, 0o660).await, Err(SocketError::Live(_))), "while its owner lives");
        drop(file);
        assert!(!path.exists(), "its owner removes it");

        // Left behind by a process that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let (_listener, _file) = bind(&path, 0o666).await.expect("nobody serves it");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o666);
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.sock");
        let foreign = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        assert!(matches!(bind(&path, 0o660).await, Err(SocketError::Live(_))), "served by who knows no lock");
        drop(foreign);
        fs::remove_file(&path).expect("there");
        fs::write(&path, "notes").expect("written");
        assert!(matches!(bind(&path, 0o660).await, Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("there"), "notes");
        fs::remove_file(&path).expect("there");
        let (_listener, file) = bind(&path, 0o660).await.expect("free");
        fs::remove_file(&path).expect("there");
        fs::write(&path, "somebody else's by now").expect("written");
        drop(file);
        assert!(path.exists());
        let away = folder.path().join("away/s.sock");
        assert!(
            bind(&away, 0o660)
                .await
                .is_err_and(|error| error.to_string().contains("the folder must be there"))
        );
    }
}
