//! Around every call: a permit, a time limit, a count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lease_worker_common::{database::StoreError, request_id};
use metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::metrics::{REFUSED, REQUESTS, SECONDS};
use super::store::{LedgerAnswer, LedgerError, LedgerRefusal};
use crate::rpc::ledger::{DISK_FULL, REASON};
use lease_core::fence::FENCING_EPOCH_STALE;

/// Limits the number of calls under way, and the time of each.
pub(super) struct Calls {
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
    limit: Duration,
}

/// Held by a call until it ends.
pub(super) struct CallPermit {
    _permit: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

impl Calls {
    pub(super) fn new(most: u32, limit: Duration) -> Self {
        let tracker = TaskTracker::new();
        // So that `none` resolves whenever there is none; calls may go on to begin.
        tracker.close();
        Self { permits: Arc::new(Semaphore::new(most as usize)), tracker, limit }
    }

    /// The number of calls under way.
    pub(super) fn under_way(&self) -> usize {
        self.tracker.len()
    }

    /// Resolves when none is under way. Cancel safe.
    pub(super) async fn none(&self) {
        self.tracker.wait().await;
    }

    /// A permit for one more call, if one is left: there is no queue.
    pub(super) fn enter(&self) -> Result<CallPermit, Status> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("too many calls at once: ask again, a little later each time")
        })?;
        Ok(CallPermit { _permit: permit, _token: self.tracker.token() })
    }

    /// Runs one call that asks the database. Dropped at its limit, what it asked for may still happen: the same
    /// request with the same key learns of it.
    pub(super) async fn run<T>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        request_id: &str,
        work: impl Future<Output = LedgerAnswer<T>>,
    ) -> Result<Result<T, LedgerRefusal>, Status> {
        let began = Instant::now();
        let limit = limit_of(metadata, self.limit);
        let answer = match self.enter() {
            Ok(_permit) => match tokio::time::timeout(limit, work).await {
                Ok(Ok(answer)) => Ok(Ok(answer)),
                Ok(Err(LedgerError::Refused(refusal))) => Ok(Err(refusal)),
                Ok(Err(LedgerError::Failed(error))) => Err(failure(method, request_id, &error)),
                Err(_) => Err(Status::deadline_exceeded(format!(
                    "not done within {limit:?}: ask again with the same key to learn what became of it"
                ))),
            },
            Err(busy) => Err(busy),
        };
        let outcome = match &answer {
            Ok(Ok(_)) => "ok".to_owned(),
            Ok(Err(refusal)) => refusal.code.clone(),
            Err(status) => format!("{:?}", status.code()),
        };
        if request_id::is_valid(request_id) {
            info!(target: request_id::TARGET, request_id, method, code = outcome, "answered");
        }
        match &answer {
            Ok(Err(refusal)) if refusal.code == FENCING_EPOCH_STALE => {
                counter!(REFUSED).increment(1);
                warn!(
                    method,
                    request_id,
                    why = refusal.message,
                    code = refusal.code,
                    "a late call was refused"
                );
            }
            Ok(Err(refusal)) => {
                debug!(method, why = refusal.message, code = refusal.code, "refused")
            }
            _ => debug!(method, outcome, took = ?began.elapsed(), "answered"),
        }
        counter!(REQUESTS, "method" => method, "code" => outcome).increment(1);
        histogram!(SECONDS, "method" => method).record(began.elapsed());
        answer
    }
}

/// Details are for our log: the answer may reach another team.
fn failure(method: &'static str, request_id: &str, error: &StoreError) -> Status {
    warn!(method, request_id, %error, "the ledger's database failed");
    if error.is_full_disk() {
        let why =
            "nothing was done, since the disk of the ledger's database is full: ask again with the same key";
        let mut status = Status::unavailable(why);
        status.metadata_mut().insert(REASON, MetadataValue::from_static(DISK_FULL));
        return status;
    }
    let state = match error {
        StoreError::Failed(sqlx::Error::Database(database)) => database.code().unwrap_or_default(),
        _ => "".into(),
    };
    match state.as_ref() {
        // A deadlock or a failed serialisation: rolled back.
        "40001" | "40P01" => Status::aborted("nothing was done: ask again"),
        // Its own limit, or a lock's.
        "57014" | "55P03" => Status::deadline_exceeded("nothing was done in time: ask again"),
        _ => Status::new(Code::Unavailable, "the ledger's database failed: ask again with the same key"),
    }
}

/// The client's deadline (`grpc-timeout`) or ours, whichever is earlier.
pub(super) fn limit_of(metadata: &MetadataMap, ours: Duration) -> Duration {
    let theirs = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
    // A little earlier than the client and tonic give up, so that the client hears why.
    theirs.map_or(ours, |theirs| ours.min(theirs - (theirs / 10).min(Duration::from_millis(100))))
}

/// At most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_counts() {
        let ours = Duration::from_secs(5);
        let limit = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            limit_of(&metadata, ours)
        };
        assert_eq!(limit("1S"), Duration::from_millis(900));
        assert_eq!(limit("20m"), Duration::from_millis(18));
        assert_eq!(limit("1H"), ours);
        for nonsense in ["", "5", "x", "123456789S", "5é"] {
            assert_eq!(timeout(nonsense), None, "{nonsense:?}");
        }
    }
}
