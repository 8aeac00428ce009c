//! Whether an instance of a role that leads is of use: for its readiness.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lease_core::Leadership;

/// Whether this instance may lead, now or later. Cheap to clone.
#[derive(Clone, Default)]
pub struct Eligible {
    pub(crate) may_lead: Arc<AtomicBool>,
    /// The term whose work runs.
    at_work: Arc<Mutex<Option<Leadership>>>,
    /// What the work's database has not said yet, or has refused for good.
    waits: Arc<Mutex<Option<String>>>,
    /// What the work's own database refused to do for the last batch.
    refused: Arc<Mutex<Option<String>>>,
}

impl Eligible {
    /// For a readiness probe.
    ///
    /// # Errors
    /// It may not, its work hangs (H-4), or its database fails the work, and why.
    pub fn check(&self) -> Result<(), String> {
        let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(silent_for) = at_work.as_ref().and_then(Leadership::silent_for) {
            return Err(format!(
                "the work has made no progress for {silent_for:.1?}, longer than leaderElection.maxSilenceMs allows: \
                 it was told to stop, and its lease is not renewed"
            ));
        }
        if let Some(why) = &*self.waits.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(why.clone());
        }
        if !self.may_lead.load(Ordering::Relaxed) {
            return Err("not eligible to lead: the lease store has not answered yet".to_owned());
        }
        match &*self.refused.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(format!("the last batch failed: {why}")),
            None => Ok(()),
        }
    }

    /// Why it must wait for the work's database, if so.
    pub(crate) fn waits(&self, why: Option<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why its database did not do the last batch, if so.
    pub(crate) fn last_batch(&self, refused: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    pub(crate) fn works_for(&self, term: Option<Leadership>) {
        *self.at_work.lock().unwrap_or_else(PoisonError::into_inner) = term;
        self.last_batch(None);
    }
}
