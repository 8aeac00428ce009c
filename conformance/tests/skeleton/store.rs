//! A backend of one's own, whole: leases as files in a folder, for several processes on one host.
//!
//! `docs/writing-a-backend.md` walks through it. It offers what every backend must, and `list`; no watch, no history.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Change, Connector, LeaseBackend, LeaseName, Lineage, Listed, Observation,
    PutOutcome, Record,
};

/// A folder for each lease with the files `record` and `floor`, and one `.lock` for all. On a local disk.
#[derive(Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// The folder while its lock is held. Dropping it, or the death of the process, frees the lock.
struct Locked<'a> {
    folder: &'a Path,
    lineage: Lineage,
    _lock: File,
}

impl Folder {
    /// Opens the folder, which an operator has made.
    pub(crate) async fn open(path: PathBuf) -> Result<Self, BackendError> {
        let folder = Self { path };
        // The first look creates the lock file, and finds what can't work.
        folder.clone().on_a_thread(|folder| folder.lock().map(drop)).await?;
        Ok(folder)
    }

    /// Deletes a register, as only an administrator may.
    pub(crate) fn delete(&self, name: &LeaseName) -> Result<(), BackendError> {
        let locked = self.lock()?;
        // The floor stays.
        fs::remove_file(locked.of(name).join("record")).map_err(not_applied("deleting a register"))
    }

    /// Files block, so they are used on a thread that may. A dropped future stops nothing there: what has been begun
    /// is done, and its caller doesn't learn of it. That is allowed (U-4): the lock is freed all the same.
    async fn on_a_thread<T: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        done.unwrap_or_else(|panicked| Err(BackendError::unknown("using the folder").with_source(panicked)))
    }

    /// Waits for its turn. The kernel frees the lock of whoever dies.
    fn lock(&self) -> Result<Locked<'_>, BackendError> {
        let failed = not_applied("locking the folder");
        let path = self.path.join(".lock");
        let open = || {
            let lock = File::options().create(true).append(true).open(&path)?;
            lock.lock()?;
            Ok((identity(&lock.metadata()?), identity(&path.metadata()?), lock))
        };
        let (locked, named, lock) = open().map_err(failed)?;
        // Whoever waits for the lock of a folder that is replaced meanwhile must not write into the new one.
        if locked != named {
            return Err(BackendError::not_applied("the folder was replaced while its lock was waited for"));
        }
        Ok(Locked { folder: &self.path, lineage: Lineage(locked), _lock: lock })
    }
}

/// another folder at the same path is another history.
fn identity(metadata: &fs::Metadata) -> String {
    format!("{}:{}", metadata.dev(), metadata.ino())
}

/// For what fails before anything is written, and for reads.
fn not_applied(what: &'static str) -> impl Fn(io::Error) -> BackendError {
    move |error| BackendError::not_applied(what).with_source(error)
}

impl Locked<'_> {
    fn of(&self, name: &LeaseName) -> PathBuf {
        self.folder.join(name.as_str())
    }

    fn observation(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let failed = not_applied("reading a register");
        let read = |file: &str| read(&self.of(name).join(file)).map_err(&failed);
        let record = read("record")?.map(|json| serde_json::from_str(&json)).transpose();
        let floor = read("floor")?.map_or(Ok(0), |text| text.parse());
        Ok(Observation {
            record: record.map_err(|error| failed(error.into()))?,
            lineage: self.lineage.clone(),
            floor: floor.map_err(|error| failed(io::Error::other(error)))?,
            version: String::new(),
        })
    }

    /// Whole or not at all, and on the disk when it returns.
    fn write(&self, name: &LeaseName, file: &str, text: &str) -> Result<(), BackendError> {
        let (folder, new) = (self.of(name), self.of(name).join("new"));
        let prepare = || {
            if !folder.exists() {
                fs::create_dir(&folder)?;
                File::open(self.folder)?.sync_all()?;
            }
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        prepare().map_err(not_applied("writing beside a register"))?;
        // From here on nobody can say that it will not be there after a crash.
        let replace = || fs::rename(&new, folder.join(file)).and_then(|()| File::open(&folder)?.sync_all());
        replace().map_err(|error| BackendError::unknown("replacing a register").with_source(error))
    }
}

/// `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl LeaseBackend for Folder {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let name = name.clone();
        self.clone().on_a_thread(move |folder| folder.lock()?.observation(&name)).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        _change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let (name, expected, record) = (name.clone(), expected.clone(), record.clone());
        self.clone()
            .on_a_thread(move |folder| {
                // Compare and write are one step, because nobody else has the lock in between.
                let locked = folder.lock()?;
                let present = locked.observation(&name)?;
                if present.tag() != expected.tag() || present.lineage != expected.lineage {
                    return Ok(PutOutcome::Conflict(present));
                }
                // The floor first (E-1): after a crash in between it is too high, which is a gap, and gaps are normal.
                let floor = present.floor.max(record.epoch);
                if floor > present.floor {
                    let raised = locked.write(&name, "floor", &floor.to_string());
                    // Whether it was raised or not, the register was not written.
                    raised
                        .map_err(|error| BackendError::not_applied("raising the floor").with_source(error))?;
                }
                let json = serde_json::to_string(&record)
                    .map_err(|error| BackendError::not_applied("writing a record").with_source(error))?;
                locked.write(&name, "record", &json)?;
                Ok(PutOutcome::Written(Observation { record: Some(record), floor, ..present }))
            })
            .await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "folder",
            watch: false,
            list: true,
            history: false,
            // A file is soon deleted by mistake.
            creates_registers: false,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let prefix = prefix.to_owned();
        let list = move |folder: &Self| {
            let locked = folder.lock()?;
            let failed = not_applied("listing the folder");
            let mut found = Vec::new();
            for entry in fs::read_dir(&folder.path).map_err(&failed)? {
                let file = entry.map_err(&failed)?.file_name();
                let name = file.to_str().filter(|name| name.starts_with(&prefix)).map(LeaseName::new);
                let Some(Ok(name)) = name else { continue };
                let observation = locked.observation(&name);
                if !matches!(&observation, Ok(seen) if seen.record.is_none()) {
                    found.push((name, observation));
                }
            }
            found.sort_by(|(one, _), (other, _)| one.cmp(other));
            Ok(found)
        };
        self.clone().on_a_thread(list).await
    }
}

/// For `Elector::builder`: opened on the lease thread, and again after a failure.
pub(crate) struct FolderConnector(pub(crate) PathBuf);

#[async_trait]
impl Connector for FolderConnector {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Folder::open(self.0.clone()).await?))
    }
}
