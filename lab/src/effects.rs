//! The effects of a run on one lease's resource: what each one says of its maker is its id.

use std::sync::Arc;

use anyhow::Context;
use lease_conformance::{EffectError, FencedResource};
use lease_core::Term;
use lease_stores::Place;
use serde::{Deserialize, Serialize};

use crate::judge::{EffectRow, Incarnation};
use crate::trace::{Nanos, Outcome};

/// One effect that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) term: Term,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) before: Nanos,
}

/// The id of an effect, as JSON.
#[derive(Serialize, Deserialize)]
struct Id {
    term: Term,
    incarnation: Incarnation,
    number: u64,
    pid: u32,
    before: Nanos,
}

/// The effects on one resource.
pub(crate) struct Effects(Arc<dyn FencedResource>);

impl Effects {
    pub(crate) async fn open(place: &Place, resource: &str) -> anyhow::Result<Self> {
        Ok(Self(place.resource(resource).await?))
    }

    /// Admits the term and makes the effect, in one transaction. Nothing is retried.
    pub(crate) async fn write(&self, effect: &Effect) -> Outcome {
        let Effect { term, incarnation, number, before } = *effect;
        let id = Id { term, incarnation, number, pid: std::process::id(), before };
        let id = serde_json::to_string(&id).expect("plain data");
        match self.0.effect(term, &id).await {
            Ok(()) => Outcome::Written,
            Err(EffectError::Stale(_)) => Outcome::Refused,
            Err(EffectError::Failed(error)) => Outcome::Failed(error),
        }
    }

    /// All of them, in the store's own order.
    pub(crate) async fn all(&self) -> anyhow::Result<Vec<EffectRow>> {
        let effects = self.0.effects().await?;
        let row = |(sequence, (_, id)): (usize, (u64, String))| {
            let id: Id = serde_json::from_str(&id).with_context(|| format!("an effect of nobody: {id}"))?;
            let Id { term, incarnation, number, pid, before } = id;
            Ok(EffectRow { sequence: sequence as i64, term, incarnation, number, pid, before })
        };
        effects.into_iter().enumerate().map(row).collect()
    }
}
