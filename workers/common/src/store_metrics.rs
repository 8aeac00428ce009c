//! The lease store as its callers meet it: how long each call takes, and what becomes of those that fail.
//!
//! Measured around the backend, once for all stores, and at the trait's own calls: what the elector waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Certainty, Change, Connector, Hints, HistoryRow, LeaseBackend, LeaseName,
    Listed, Observation, PutOutcome, Record,
};
use metrics::{counter, describe_counter, describe_histogram, histogram};

/// The duration of each call, however it ended, by `operation`; those that write also by `change`.
const SECONDS: &str = "leasehold_store_request_seconds";
/// Calls without an answer, by `operation` and `outcome`.
const ERRORS: &str = "leasehold_store_errors_total";

/// The operations that an elector uses, and the outcomes that a failed one may have. They are shown from the start.
const EXPECTED: [(&str, &[&str]); 4] = [
    ("connect", &[NOT_APPLIED, ABANDONED]),
    ("observe", &[NOT_APPLIED, ABANDONED]),
    ("put_if", &[NOT_APPLIED, UNKNOWN, ABANDONED]),
    ("watch", &[NOT_APPLIED, ABANDONED]),
];

/// It certainly did nothing. Every failed read is of this kind.
const NOT_APPLIED: &str = "not_applied";
/// It may have been applied.
const UNKNOWN: &str = "unknown";
/// Its caller gave it up before it had an answer; a write may have been applied.
const ABANDONED: &str = "abandoned";

/// A store whose calls are measured, connecting among them.
pub fn measured(store: impl Connector) -> impl Connector {
    let store = Arc::new(store);
    move || {
        let store = store.clone();
        async move {
            start();
            let backend = timed("connect", None, store.connect()).await?;
            let measured: Arc<dyn LeaseBackend> = Arc::new(Measured(backend));
            Ok(measured)
        }
    }
}

fn start() {
    describe_histogram!(SECONDS, "duration of calls to the lease store in seconds, by operation and change");
    describe_counter!(
        ERRORS,
        "calls to the lease store that failed or were given up, by operation and outcome"
    );
    for (operation, outcomes) in EXPECTED {
        for outcome in outcomes {
            counter!(ERRORS, "operation" => operation, "outcome" => *outcome).increment(0);
        }
    }
}

struct Measured(Arc<dyn LeaseBackend>);

/// A call under way. It is counted when it is dropped, so one that is given up in the middle counts too.
struct Timed {
    operation: &'static str,
    change: Option<Change>,
    began: Instant,
    failed: Option<&'static str>,
}

async fn timed<T>(
    operation: &'static str,
    change: Option<Change>,
    call: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let mut timed = Timed { operation, change, began: Instant::now(), failed: Some(ABANDONED) };
    let answer = call.await;
    timed.failed = match &answer {
        Ok(_) => None,
        Err(error) if change.is_some() && error.certainty == Certainty::Unknown => Some(UNKNOWN),
        Err(_) => Some(NOT_APPLIED),
    };
    answer
}

impl Drop for Timed {
    fn drop(&mut self) {
        let took: Duration = self.began.elapsed();
        match self.change {
            Some(change) => {
                histogram!(SECONDS, "operation" => self.operation, "change" => change.as_str()).record(took);
            }
            None => histogram!(SECONDS, "operation" => self.operation).record(took),
        }
        if let Some(outcome) = self.failed {
            counter!(ERRORS, "operation" => self.operation, "outcome" => outcome).increment(1);
        }
    }
}

#[async_trait]
impl LeaseBackend for Measured {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        timed("observe", None, self.0.observe(name)).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        timed("put_if", Some(change), self.0.put_if(name, expected, record, change)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        timed("list", None, self.0.list(prefix)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        timed("watch", None, self.0.watch(prefix)).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        timed("history", None, self.0.history(name, limit)).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn each_call_is_counted_by_what_became_of_it_also_when_it_is_dropped() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let failed = |error: BackendError| std::future::ready(Err::<(), _>(error));
            start();
            timed("observe", None, std::future::ready(Ok(())))
                .now_or_never()
                .expect("at once")
                .expect("well");
            let lost = failed(BackendError::unknown("lost"));
            timed("put_if", Some(Change::Renew), lost).now_or_never().expect("at once").expect_err("lost");
            let refused = failed(BackendError::refused("no"));
            timed("put_if", Some(Change::Release), refused).now_or_never().expect("at once").expect_err("no");
            // A failed read changed nothing, whatever the backend says of it.
            let unread = failed(BackendError::unknown("unread"));
            timed("observe", None, unread).now_or_never().expect("at once").expect_err("unread");
            assert!(timed("watch", None, std::future::pending::<Result<(), _>>()).now_or_never().is_none());
        });
        let page = page.render();
        for line in [
            "leasehold_store_errors_total{operation=\"put_if\",outcome=\"unknown\"} 1",
            "leasehold_store_errors_total{operation=\"put_if\",outcome=\"not_applied\"} 1",
            "leasehold_store_errors_total{operation=\"put_if\",outcome=\"abandoned\"} 0",
            "leasehold_store_errors_total{operation=\"observe\",outcome=\"not_applied\"} 1",
            "leasehold_store_errors_total{operation=\"watch\",outcome=\"abandoned\"} 1",
            "leasehold_store_request_seconds_count{operation=\"observe\"} 2",
            "leasehold_store_request_seconds_count{operation=\"put_if\",change=\"renew\"} 1",
            "leasehold_store_request_seconds_count{operation=\"watch\"} 1",
        ] {
            assert!(page.lines().any(|shown| shown == line), "no {line}: {page}");
        }
    }
}
