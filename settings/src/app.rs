//! The settings and the modes, together.

use crate::{BadSetting, Failure, LeaderElection, LeaseStore, Modes, Settings};

/// The effective settings and the modes: what a command or a role works with.
pub struct App {
    settings: Settings,
    modes: Modes,
}

impl App {
    /// Settings and the modes that they may name.
    pub fn new(settings: Settings, modes: Modes) -> Self {
        Self { settings, modes }
    }

    /// The effective settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The lease store that the settings name, not connected yet; `None` in mode `disabled`.
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn store(&self) -> Result<Option<LeaseStore>, BadSetting> {
        self.modes.open(&self.settings)
    }

    /// The store that the lease is to be moved from before this program campaigns, not connected yet (M-1).
    ///
    /// # Errors
    /// A setting that can't be used.
    pub fn migrate_from(&self) -> Result<Option<LeaseStore>, BadSetting> {
        let Some(from) = self.settings.leader_election()?.migrate_from else { return Ok(None) };
        let store = self.modes.open_as(&self.settings, "migrateFrom", &from)?;
        store.map(Some).ok_or_else(|| {
            let why =
                "mode disabled has no lease that could be moved: remove this; workers take over from it";
            self.settings.refuse::<LeaderElection>("migrateFrom", why)
        })
    }

    /// Checks `migrateFrom` where nothing is moved: the old store's own settings aren't needed.
    ///
    /// # Errors
    /// There is no such mode.
    pub fn check_migrate_from(&self) -> Result<(), BadSetting> {
        let from = self.settings.leader_election()?.migrate_from;
        from.map_or(Ok(()), |from| self.modes.check(&self.settings, "migrateFrom", &from))
    }

    /// Runs a command's future on a runtime of its own.
    ///
    /// # Errors
    /// The future's, or that no runtime could start.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("no runtime could start: {error}")))?;
        let ended = runtime.block_on(work);
        // Abandoned tasks must not delay the process's end.
        runtime.shutdown_background();
        ended
    }
}
