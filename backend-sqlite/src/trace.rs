//! The trace of a lease file: a small file beside it, which outlives it. Whoever makes the lease file anew learns from it
//! that somebody may still hold leases in the one that was deleted (`docs/decisions/0062-sqlite-the-trace.md`).

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use lease_core::{BackendError, Tag};

/// A hidden file, so that `rm leases.sqlite*` leaves it.
pub(crate) struct Trace(PathBuf);

impl Trace {
    /// Of the lease file that `path` leads to, which must exist.
    pub(crate) fn of(path: &Path) -> Result<Self, BackendError> {
        let file = path.canonicalize().map_err(|error| failed(path, "find", error))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self(file.with_file_name(format!(".{name}.trace"))))
    }

    /// The number of lease files that were made here, as far as it is known.
    pub(crate) fn files(&self) -> Result<u64, BackendError> {
        let text = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            read => read.map_err(|error| failed(&self.0, "read", error))?,
        };
        let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
        number.filter(|files| (1..=MOST).contains(files)).ok_or_else(|| {
            BackendError::refused(format!(
                "{} does not begin with a number of lease files: write 1 into it, or remove it when no process uses the \
                 lease file",
                self.0.display()
            ))
        })
    }

    /// At least so many. Waits for the disk.
    pub(crate) fn count(&self, files: u64) -> Result<(), BackendError> {
        let files = files.min(MOST);
        if self.files()? >= files {
            return Ok(());
        }
        let written = || -> io::Result<()> {
            // Others may do the same at this moment.
            let new = self.0.with_extension(Tag::random().to_string());
            let folder = self.0.parent().unwrap_or(Path::new("/"));
            let mut file = File::create_new(&new)?;
            writeln!(
                file,
                "{files} lease files were made here. Keep this file: it tells who makes the next one to wait"
            )?;
            file.sync_all()?;
            fs::rename(&new, &self.0)?;
            File::open(folder)?.sync_all()
        };
        written().map_err(|error| failed(&self.0, "write", error))
    }
}

/// Epochs of the file after this many others exceed all of theirs, unless an operator raised those as far.
pub(crate) const fn epochs_after(files: u64) -> u64 {
    files << EPOCH_BITS
}

/// The number of files that were made before the one whose epochs begin there.
pub(crate) const fn files_before(epoch: u64) -> u64 {
    epoch >> EPOCH_BITS
}

/// As of a timeline's epochs in Postgres.
const EPOCH_BITS: u32 = 46;

/// The last one's epochs still have room.
const MOST: u64 = 1 << 15;

fn failed(path: &Path, what: &str, error: io::Error) -> BackendError {
    BackendError::not_applied(format!("could not {what} {}", path.display())).with_source(error)
}
