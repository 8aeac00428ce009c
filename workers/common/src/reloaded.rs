//! Values that are made from files, and made again when the files change: certificates, tokens, who may do what.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;
use std::{fs, io, thread};

use tracing::{info, warn};

/// Between looks at the files. Kubernetes swaps a Secret's link, which no watch of the file itself would notice.
const EVERY: Duration = Duration::from_secs(2);

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Which one of the files.
    pub file: usize,
    /// The reason, and the fix. Holds nothing of the file's content.
    pub why: String,
}

impl Unusable {
    /// This one, for this reason.
    pub fn new(file: usize, why: impl Into<String>) -> Self {
        Self { file, why: why.into() }
    }
}

type Contents = Vec<Vec<u8>>;
type Make<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Unusable> + Send;

/// The value that the files held when they could be used last. Cheap to clone.
pub struct Reloaded<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the files, and looks at them again as long as the value is used. `what` names it in the log.
    ///
    /// # Errors
    /// A file that can't be used. From then on such a file is logged, and the value stays.
    pub fn start(
        what: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, Unusable> + Send + 'static,
    ) -> Result<Self, Unusable> {
        let contents = read(&files)?;
        let this = Self::fixed(make(&contents)?);
        if files.is_empty() {
            return Ok(this);
        }
        let look =
            Look { what, files, make: Box::new(make), value: Arc::downgrade(&this.0), contents, found: None };
        // A thread of its own: a file system that hangs holds up nobody.
        let started = thread::Builder::new().name("reload".to_owned()).spawn(move || look.keep_looking());
        started.map_err(|error| Unusable::new(0, format!("no thread can be started: {error}")))?;
        Ok(this)
    }

    /// One that never changes.
    pub fn fixed(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The present value.
    pub fn now(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &[PathBuf]) -> Result<Contents, Unusable> {
    let read = |(file, path): (usize, &PathBuf)| {
        fs::read(path).map_err(|error| Unusable::new(file, unreadable(&error)))
    };
    files.iter().enumerate().map(read).collect()
}

fn unreadable(error: &io::Error) -> String {
    format!("the file can't be read: {error}; name a readable one")
}

struct Look<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    make: Box<Make<T>>,
    value: Weak<RwLock<Arc<T>>>,
    contents: Contents,
    /// What the last look found instead. One that finds the same again believes it: a file that is written in place is
    /// first empty, then half.
    found: Option<Contents>,
}

impl<T> Look<T> {
    fn keep_looking(mut self) {
        let mut said = None;
        loop {
            thread::sleep(EVERY);
            let Some(value) = self.value.upgrade() else { return };
            match self.changed() {
                Ok(None) => {}
                Ok(Some(new)) => {
                    *value.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    info!(what = self.what, "reloaded");
                    said = None;
                }
                Err(unusable) if said.as_ref() == Some(&unusable) => {}
                Err(unusable) => {
                    let file = self.files.get(unusable.file).map(|path| path.display());
                    let (what, why) = (self.what, &unusable.why);
                    warn!(
                        what,
                        file = file.map(tracing::field::display),
                        why,
                        "a changed file can't be used; what it held before stays in use"
                    );
                    said = Some(unusable);
                }
            }
        }
    }

    fn changed(&mut self) -> Result<Option<T>, Unusable> {
        let contents = read(&self.files)?;
        if contents == self.contents {
            self.found = None;
            return Ok(None);
        }
        if self.found.as_ref() != Some(&contents) {
            self.found = Some(contents);
            return Ok(None);
        }
        let new = (self.make)(&contents)?;
        self.contents = contents;
        Ok(Some(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_leaves_the_value_as_it_was() {
        let folder = std::env::temp_dir().join(format!("reloaded-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("number");
        let write = |text: &str| fs::write(&file, text).expect("written");
        write("1");
        let make = |contents: &[Vec<u8>]| {
            let text = String::from_utf8_lossy(&contents[0]).into_owned();
            text.parse::<u32>().map_err(|_| Unusable::new(0, "no number"))
        };
        let value = Reloaded::fixed(1);
        let contents = vec![b"1".to_vec()];
        let (files, kept) = (vec![file.clone()], Arc::downgrade(&value.0));
        let mut look =
            Look { what: "a number", files, make: Box::new(make), value: kept, contents, found: None };
        assert_eq!(look.changed(), Ok(None));
        write("x");
        assert_eq!(look.changed(), Ok(None), "it may be half of something");
        assert_eq!(look.changed(), Err(Unusable::new(0, "no number")));
        write("2");
        assert_eq!(look.changed(), Ok(None));
        assert_eq!(look.changed(), Ok(Some(2)));
        assert_eq!(look.changed(), Ok(None));
        fs::remove_dir_all(&folder).expect("removed");
        assert!(look.changed().is_err_and(|unusable| unusable.why.contains("can't be read")));
        assert_eq!(*value.now(), 1);
    }
}
