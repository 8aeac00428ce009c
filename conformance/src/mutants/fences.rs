//! Wrong fences: resources that admit what they must refuse (F-1).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::Term;
use lease_core::fence::{self, NotAdmitted};
use lease_judge::{EffectError, FencedResource};

use super::{Kind, Mutant};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "always admits",
        killers: &[
            "fence::refuses_an_earlier_term_and_leaves_no_trace",
            "fence::a_paused_holders_late_effect_is_refused",
        ],
        kind: Kind::Fence(|| WrongResource::make(Wrong::AdmitsAll)),
        losing: false,
    },
    Mutant {
        name: "compares only the epoch",
        killers: &["fence::refuses_another_grant_of_the_same_epoch"],
        kind: Kind::Fence(|| WrongResource::make(Wrong::ComparesEpochs)),
        losing: false,
    },
    Mutant {
        name: "admits an epoch above the ceiling",
        killers: &["fence::refuses_an_epoch_above_the_ceiling"],
        kind: Kind::Fence(|| WrongResource::make(Wrong::KnowsNoCeiling)),
        losing: false,
    },
    Mutant {
        name: "checks before the write, not in it",
        killers: &["fence::admits_in_order_under_concurrency"],
        kind: Kind::Fence(|| WrongResource::make(Wrong::ChecksFirst)),
        losing: false,
    },
    Mutant {
        name: "writes before it checks",
        killers: &["fence::refuses_an_earlier_term_and_leaves_no_trace"],
        kind: Kind::Fence(|| WrongResource::make(Wrong::WritesFirst)),
        losing: false,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    AdmitsAll,
    ComparesEpochs,
    KnowsNoCeiling,
    ChecksFirst,
    WritesFirst,
}

struct WrongResource {
    wrong: Wrong,
    mark: Mutex<Option<Term>>,
    effects: Mutex<Vec<(u64, String)>>,
}

impl WrongResource {
    fn make(wrong: Wrong) -> Arc<dyn FencedResource> {
        Arc::new(Self { wrong, mark: Mutex::default(), effects: Mutex::default() })
    }

    fn admit(&self, term: Term) -> Result<(), NotAdmitted> {
        let mut mark = self.mark.lock().expect("not poisoned");
        *mark = Some(match (self.wrong, *mark) {
            (Wrong::AdmitsAll, _) => term,
            (Wrong::KnowsNoCeiling, _) if term.epoch > Term::MAX_EPOCH => term,
            (Wrong::ComparesEpochs, Some(mark)) if mark.epoch == term.epoch => term,
            (_, mark) => fence::admit(mark, term)?,
        });
        Ok(())
    }

    fn write(&self, term: Term, id: &str) {
        self.effects.lock().expect("not poisoned").push((term.epoch, id.to_owned()));
    }
}

#[async_trait]
impl FencedResource for WrongResource {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        if self.wrong == Wrong::WritesFirst {
            self.write(term, id);
            return Ok(self.admit(term)?);
        }
        if self.wrong == Wrong::ChecksFirst {
            fence::admit(*self.mark.lock().expect("not poisoned"), term)?;
            // As between two statements.
            tokio::task::yield_now().await;
            *self.mark.lock().expect("not poisoned") = Some(term);
        } else {
            self.admit(term)?;
        }
        self.write(term, id);
        Ok(())
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let (successor, its) = meanwhile.await;
        self.effect(successor, &its).await?;
        self.effect(term, id).await
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        Ok(self.effects.lock().expect("not poisoned").clone())
    }
}
