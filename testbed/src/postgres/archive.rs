//! A WAL archive that several servers share.

use std::{path::Path, sync::Arc};

use super::{binaries::PostgresBinaries, settings::ServerSettings};
use crate::supervisor::Folder;

/// A folder that servers archive their WAL and timeline histories into and restore them from. Clones are the
/// same archive; it is removed with the last of them.
#[derive(Clone, Debug)]
pub struct WalArchive(Arc<Folder>);

impl WalArchive {
    /// Makes an empty archive.
    ///
    /// # Errors
    /// When PostgreSQL isn't installed, or no folder can be made.
    pub fn new() -> anyhow::Result<Self> {
        let folder = Folder::new("archive")?;
        PostgresBinaries::find()?.user.own(folder.path())?;
        Ok(Self(Arc::new(folder)))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn configure(&self, settings: &mut ServerSettings) {
        let folder = self.path().display();
        settings.set("archive_mode".into(), "on".into());
        // A file appears under its name only when it is whole, and is never overwritten.
        let archive = format!(
            "test -f \"{folder}/%f\" || (cp \"%p\" \"{folder}/%f.new\" && mv \"{folder}/%f.new\" \"{folder}/%f\")"
        );
        settings.set("archive_command".into(), archive);
        settings.set("restore_command".into(), format!("cp \"{folder}/%f\" \"%p\""));
    }
}
