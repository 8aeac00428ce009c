//! A set that is updated by reading it, thinking, and writing it: each update names the one that it was made on, so the
//! set is what can be reached from the newest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::Term;
use lease_judge::{EffectError, FencedResource};
use tokio::sync::Mutex;

/// The time between an update's read and its write: what a program does under a lock.
const THOUGHT: Duration = Duration::from_millis(40);

/// Between an update's name and that of the one it was made on.
const MADE_ON: char = '<';

/// The end of the name of a term's opening.
const OPENING: char = '!';

/// A row of the resource that has the set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SetRow<'a> {
    /// A term's first act raises the mark, before any read that its updates depend on (F-1).
    Opening,
    /// An element was added.
    Update {
        name: &'a str,
        /// The newest update that its author had read.
        made_on: Option<&'a str>,
    },
}

impl<'a> SetRow<'a> {
    /// The row of this effect; `None` if no worker wrote it.
    pub(super) fn of(id: &'a str) -> Option<Self> {
        if id.ends_with(OPENING) {
            return Some(Self::Opening);
        }
        let (name, made_on) = id.split_once(MADE_ON)?;
        Some(Self::Update { name, made_on: Some(made_on).filter(|name| !name.is_empty()) })
    }

    fn update(id: &'a str) -> Option<&'a str> {
        match Self::of(id)? {
            Self::Update { name, .. } => Some(name),
            Self::Opening => None,
        }
    }
}

/// The set as a resource whose effects are whole updates.
pub(super) struct UpdatedSet {
    rows: Arc<dyn FencedResource>,
    opened: Mutex<Option<Term>>,
}

impl UpdatedSet {
    pub(super) fn new(rows: Arc<dyn FencedResource>) -> Self {
        Self { rows, opened: Mutex::new(None) }
    }

    async fn newest_update(&self) -> Result<Option<String>, EffectError> {
        let Some((_, newest)) = self.rows.newest().await? else { return Ok(None) };
        if let Some(name) = SetRow::update(&newest) {
            return Ok(Some(name.to_owned()));
        }
        let rows = self.rows.effects().await?;
        Ok(rows.iter().rev().find_map(|(_, id)| SetRow::update(id)).map(str::to_owned))
    }
}

#[async_trait]
impl FencedResource for UpdatedSet {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut opened = self.opened.lock().await;
        if *opened != Some(term) {
            self.rows.effect(term, &format!("{id}{OPENING}")).await?;
            *opened = Some(term);
        }
        let made_on = self.newest_update().await?.unwrap_or_default();
        tokio::time::sleep(THOUGHT).await;
        self.rows.effect(term, &format!("{id}{MADE_ON}{made_on}")).await
    }

    async fn late_effect(
        &self,
        late: (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        self.rows.late_effect(late, meanwhile).await
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        self.rows.effects().await
    }
}
