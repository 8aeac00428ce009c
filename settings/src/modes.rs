//! The registry of modes: each is one entry, which turns its settings into a store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{BackendError, Connector, LeaseBackend};

use crate::{BadSetting, LeaderElection, Section, Settings};

/// The mode without a lease: roles take their term from the outbox's own database.
pub const DISABLED: &str = "disabled";

/// One kind of lease store.
pub trait Mode: Send + Sync + 'static {
    /// What `leaderElection.mode` says.
    fn name(&self) -> &'static str;

    /// Its settings: `leaderElection.<name>`.
    fn section(&self) -> Section;

    /// Turns settings into a store, **without connecting** and without creating anything.
    ///
    /// # Errors
    /// A setting that can't be used: `settings.refuse`, `settings.required`.
    fn open(&self, settings: &Settings) -> Result<Store, BadSetting>;
}

type Look = dyn Fn() -> Result<(), String> + Send + Sync;
type Preparation = Pin<Box<dyn Future<Output = Result<String, BackendError>> + Send>>;

/// A lease store that the settings name. Cheap to clone; it's a [`Connector`], for `Elector::builder`.
#[derive(Clone)]
pub struct Store {
    mode: &'static str,
    description: String,
    advice: &'static str,
    caution: Option<&'static str>,
    connector: Arc<dyn Connector>,
    look: Option<Arc<Look>>,
    prepare: Option<Arc<dyn Fn() -> Preparation + Send + Sync>>,
}

impl Store {
    /// A store of the mode `mode`. `description` says which one, without secrets; `advice` says what to check when it
    /// doesn't answer.
    pub fn new(
        mode: &'static str,
        description: impl Into<String>,
        advice: &'static str,
        connector: impl Connector,
    ) -> Self {
        let connector = Arc::new(connector);
        Self {
            mode,
            description: description.into(),
            advice,
            caution: None,
            connector,
            look: None,
            prepare: None,
        }
    }

    /// What whoever relies on a lease without a fence must know about this store; said at start-up.
    pub fn cautioned(mut self, caution: &'static str) -> Self {
        self.caution = Some(caution);
        self
    }

    /// For stores that opening would create: says, before an operator's command opens it, that it isn't there. Else
    /// a mistyped path would become an empty store, and a look at it an answer.
    pub fn looked_for_by(mut self, look: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.look = Some(Arc::new(look));
        self
    }

    /// What `leasehold migrate-schema` and `leasehold init` do first: tables, migrations. Must be safe to run again.
    /// Answers with a sentence on what it found or made.
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

    /// What to check when it doesn't answer.
    pub fn advice(&self) -> &'static str {
        self.advice
    }

    /// The text of [`cautioned`](Self::cautioned).
    pub fn caution(&self) -> Option<&'static str> {
        self.caution
    }

    /// Runs [`looked_for_by`](Self::looked_for_by)'s check.
    ///
    /// # Errors
    /// The store isn't there: a sentence on what to do.
    pub fn look(&self) -> Result<(), String> {
        self.look.as_ref().map_or(Ok(()), |look| look())
    }

    /// Makes the store ready to hold leases; nothing to do for stores that need no preparation.
    pub async fn prepare(&self) -> Result<Option<String>, BackendError> {
        match &self.prepare {
            Some(prepare) => prepare().await.map(Some),
            None => Ok(None),
        }
    }
}

/// Which store it is, without secrets.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

#[async_trait]
impl Connector for Store {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        self.connector.connect().await
    }
}

/// The modes that `leaderElection.mode` may name.
#[derive(Default)]
pub struct Modes(Vec<Box<dyn Mode>>);

impl Modes {
    /// Adds a mode, or replaces the one of the same name.
    pub fn add(&mut self, mode: impl Mode) {
        self.0.retain(|present| present.name() != mode.name());
        self.0.push(Box::new(mode));
    }

    /// The settings of all modes, in the order in which they were added.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.0.iter().map(|mode| mode.section())
    }

    /// The store that the settings name; `None` in mode `disabled`.
    pub(crate) fn open(&self, settings: &Settings) -> Result<Option<Store>, BadSetting> {
        self.open_as(settings, "mode", &settings.block::<LeaderElection>()?.mode)
    }

    /// The store that the setting `key` of `leaderElection` names by `name`.
    pub(crate) fn open_as(
        &self,
        settings: &Settings,
        key: &str,
        name: &str,
    ) -> Result<Option<Store>, BadSetting> {
        if let Some(mode) = self.0.iter().find(|mode| mode.name() == name) {
            return mode.open(settings).map(Some);
        }
        if name == DISABLED {
            return Ok(None);
        }
        let known: Vec<_> = [DISABLED].into_iter().chain(self.0.iter().map(|mode| mode.name())).collect();
        let known = known.join(", ");
        Err(settings.refuse::<LeaderElection>(key, format!("use one of {known}")))
    }
}
