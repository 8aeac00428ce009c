//! The registry of modes: each is one entry, which turns its settings into a lease store.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{BackendError, Connector, LeaseBackend};

use crate::{BadSetting, LeaderElection, Section, Settings};

/// The mode without a lease: roles take their term from their own database.
pub const DISABLED: &str = "disabled";

/// One kind of lease store.
pub trait Mode: Send + Sync + 'static {
    /// The value of `leaderElection.mode` that selects it.
    fn name(&self) -> &'static str;

    /// Its settings: `leaderElection.<name>`.
    fn section(&self) -> Section;

    /// Turns settings into a store, **without connecting** and without creating anything.
    ///
    /// # Errors
    /// A setting that can't be used: `settings.refuse`, `settings.required`.
    fn open(&self, settings: &Settings) -> Result<LeaseStore, BadSetting>;
}

type Preparation = Pin<Box<dyn Future<Output = Result<String, BackendError>> + Send>>;

/// A lease store that the settings name. Cheap to clone; it's a [`Connector`], for `Elector::builder`.
#[derive(Clone)]
pub struct LeaseStore {
    mode: &'static str,
    description: String,
    advice: &'static str,
    caution: Option<&'static str>,
    connector: Arc<dyn Connector>,
    file: Option<PathBuf>,
    prepare: Option<Arc<dyn Fn() -> Preparation + Send + Sync>>,
}

impl LeaseStore {
    /// A store of the mode `mode`. `description` identifies it, without secrets; `advice` says what to check when it
    /// doesn't answer.
    pub fn new(
        mode: &'static str,
        description: impl Into<String>,
        advice: &'static str,
        connector: impl Connector,
    ) -> Self {
        Self {
            mode,
            description: description.into(),
            advice,
            caution: None,
            connector: Arc::new(connector),
            file: None,
            prepare: None,
        }
    }

    /// A warning about this store for users of leases without a fence, logged at start-up.
    pub fn cautioned(mut self, caution: &'static str) -> Self {
        self.caution = Some(caution);
        self
    }

    /// The store is a file that opening would create. Operator's commands check first that it is there: otherwise a
    /// mistyped path would become an empty store.
    pub fn in_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// `leasehold init`, `migrate-schema`, `migrate` and `run --init` first make the store ready by this: tables, migrations.
    /// It must be safe to run again, and returns a sentence on what it found or made.
    pub fn prepared_by<F, Fut>(mut self, prepare: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<String, BackendError>> + Send + 'static,
    {
        self.prepare = Some(Arc::new(move || Box::pin(prepare())));
        self
    }

    /// The mode's name.
    pub fn mode(&self) -> &'static str {
        self.mode
    }

    /// The checks to make when it doesn't answer.
    pub fn advice(&self) -> &'static str {
        self.advice
    }

    /// The text of [`cautioned`](Self::cautioned).
    pub fn caution(&self) -> Option<&'static str> {
        self.caution
    }

    /// The path of [`in_file`](Self::in_file).
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Makes the store ready to hold leases; `None` for stores that need no preparation. May be repeated, also after
    /// its future was dropped.
    ///
    /// # Errors
    /// The store's.
    pub async fn prepare(&self) -> Result<Option<String>, BackendError> {
        match &self.prepare {
            Some(prepare) => prepare().await.map(Some),
            None => Ok(None),
        }
    }
}

/// The description, without secrets.
impl fmt::Display for LeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

#[async_trait]
impl Connector for LeaseStore {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.connector.connect().await
    }
}

/// The modes that `leaderElection.mode` may name.
#[derive(Default)]
pub struct Modes {
    modes: Vec<Box<dyn Mode>>,
    left_out: Vec<&'static str>,
}

impl Modes {
    /// Adds a mode, or replaces the one of the same name.
    pub fn add(&mut self, mode: impl Mode) {
        self.modes.retain(|present| present.name() != mode.name());
        self.modes.push(Box::new(mode));
    }

    /// Notes a mode that this program was built without, so that its name is refused with that reason.
    pub fn leave_out(&mut self, name: &'static str) {
        self.left_out.push(name);
    }

    /// The settings of all modes, in the order in which they were added.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.modes.iter().map(|mode| mode.section())
    }

    /// The store that the settings name; `None` in mode `disabled`.
    pub(crate) fn open(&self, settings: &Settings) -> Result<Option<LeaseStore>, BadSetting> {
        self.open_as(settings, "mode", &settings.block::<LeaderElection>()?.mode)
    }

    /// The store that the setting `key` of `leaderElection` names by `name`.
    pub(crate) fn open_as(
        &self,
        settings: &Settings,
        key: &str,
        name: &str,
    ) -> Result<Option<LeaseStore>, BadSetting> {
        self.check(settings, key, name)?;
        self.modes.iter().find(|mode| mode.name() == name).map(|mode| mode.open(settings)).transpose()
    }

    /// Is there a mode of this name, `disabled` among them?
    pub(crate) fn check(&self, settings: &Settings, key: &str, name: &str) -> Result<(), BadSetting> {
        if name == DISABLED || self.modes.iter().any(|mode| mode.name() == name) {
            return Ok(());
        }
        let known: Vec<_> = [DISABLED].into_iter().chain(self.modes.iter().map(|mode| mode.name())).collect();
        let known = known.join(", ");
        let why = if self.left_out.contains(&name) {
            format!(
                "this program was built without that mode: use one of {known}, or build it with --features {name}"
            )
        } else {
            format!("use one of {known}")
        };
        Err(settings.refuse::<LeaderElection>(key, why))
    }
}
