//! A connector that records in the process's own trace.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::StreamExt;
use lease_core::{
    BackendError, Capabilities, Change, Connector, Hint, Hints, HistoryRow, LeaseBackend, LeaseName,
    Observation, PutOutcome, Record,
};

use crate::trace::{Act, Entry, Outcome, Trace, now};

/// A connector whose backend writes down what it is shown and what it sends.
pub(crate) struct Recording {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) trace: Trace,
}

#[async_trait]
impl Connector for Recording {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let backend = self.connector.connect().await?;
        let shown = Mutex::new(None);
        Ok(Arc::new(Recorder(Arc::new(Recorded { backend, trace: self.trace.clone(), shown }))))
    }
}

struct Recorder(Arc<Recorded>);

struct Recorded {
    backend: Arc<dyn LeaseBackend>,
    trace: Trace,
    /// The tag, lineage and beat last shown, as text.
    shown: Mutex<Option<String>>,
}

impl Recorded {
    fn saw(&self, sent: u64, at: u64, observation: &Observation) {
        let Some(record) = &observation.record else { return };
        let beat = format!("{} {:?} {}", observation.lineage, record.grant, record.beat);
        let mut shown = self.shown.lock().expect("not poisoned");
        if shown.as_ref() != Some(&beat) {
            *shown = Some(beat);
            let (epoch, grant, beat) = (record.epoch, record.grant, record.beat);
            self.trace.add(&Entry::Saw { sent, at, epoch, grant, beat });
        }
    }
}

#[async_trait]
impl LeaseBackend for Recorder {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let sent = now();
        let observation = self.0.backend.observe(name).await?;
        self.0.saw(sent, now(), &observation);
        Ok(observation)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        let sent = now();
        let result = self.0.backend.put_if(name, expected, record, change).await;
        let answered = now();
        if let Some(act) = Act::of(change) {
            let outcome = match &result {
                Ok(PutOutcome::Written(_)) => Outcome::Written,
                Ok(PutOutcome::Conflict(_)) => Outcome::Refused,
                Err(error) => Outcome::Failed(error.to_string()),
            };
            let (epoch, beat) = (record.epoch, record.beat);
            self.0.trace.add(&Entry::Put { sent, answered, act, epoch, beat, outcome });
        }
        if let Ok(PutOutcome::Written(shown) | PutOutcome::Conflict(shown)) = &result {
            self.0.saw(sent, answered, shown);
        }
        result
    }

    fn capabilities(&self) -> Capabilities {
        self.0.backend.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(LeaseName, Observation)>, BackendError> {
        self.0.backend.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let recorder = self.0.clone();
        let hints = self.0.backend.watch(prefix).await?;
        Ok(Box::pin(hints.inspect(move |hint| {
            if let Hint::Shows(_, observation) = hint {
                let at = now();
                recorder.saw(at, at, observation);
            }
        })))
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        self.0.backend.history(name, limit).await
    }
}
