//! Fenced resources, as the judge and its actors use them.

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::Term;
use lease_core::fence::NotAdmitted;

/// Why an effect was not made.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// `FENCING_EPOCH_STALE`.
    #[error(transparent)]
    Stale(#[from] lease_core::fence::Stale),
    /// `FENCING_EPOCH_ABOVE_CEILING`.
    #[error(transparent)]
    AboveCeiling(#[from] lease_core::fence::AboveCeiling),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<NotAdmitted> for EffectError {
    fn from(refused: NotAdmitted) -> Self {
        match refused {
            NotAdmitted::Stale(stale) => stale.into(),
            NotAdmitted::AboveCeiling(above) => above.into(),
        }
    }
}

/// A resource that admits effects by F-1, in the same atomic write as the effect.
#[async_trait]
pub trait FencedResource: Send + Sync {
    /// In one transaction: admits `term` and adds `id`.
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError>;

    /// Sends an effect and has it held on its way into the store; awaits `meanwhile`, makes the effect that it
    /// returns, and lets the held one go. Returns the outcome of the held one.
    ///
    /// The fault proxy holds it, or a lock that somebody else holds: never a sleep.
    async fn late_effect(
        &self,
        late: (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError>;

    /// Epoch and id of each effect, in the order in which they happened.
    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError>;

    /// Epoch and id of the newest effect.
    async fn newest(&self) -> Result<Option<(u64, String)>, EffectError> {
        Ok(self.effects().await?.pop())
    }
}
