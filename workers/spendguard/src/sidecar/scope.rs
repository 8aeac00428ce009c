//! The ledger's fencing scope as a lease store, so that the elector keeps it like any other lease
//! (`docs/decisions/0053-sidecar-elector.md`).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use lease_core::{
    BackendError, Capabilities, Change, Grant, Hint, Hints, LeaseBackend, LeaseName, Lineage, Observation,
    PutOutcome, Record,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::info;

use super::ledger::{Client, Ledger, LedgerCallError, Line, answered};
use super::metrics;
use crate::rpc::ledger::v1::{self, FencingScope};
use crate::rpc::ledger::v1::{
    observe_fencing_scope_response as observed, put_fencing_scope_response as written,
};

/// The longest that one call waits for a free scope.
const AWAIT_LIMIT: Duration = Duration::from_secs(10);

/// Scopes and their effects are in one database and are rewound together, so a restored scope may be taken at once: no
/// effect of a term that the restore has lost is left, and the fence refuses its grant.
const LINEAGE: &str = "ledger";

/// Which scopes of which ledger, and how they are shown.
#[derive(Clone)]
pub struct ScopesConfig {
    /// The ledger.
    pub ledger: Ledger,
    /// The tenant that owns the scopes.
    pub tenant: String,
    /// The scope that a lease's name stands for.
    pub scope_of: Arc<dyn Fn(&LeaseName) -> String + Send + Sync>,
    /// The time after which a silent connection is replaced, as for [`Ledger`].
    pub patience: Duration,
    /// Show a term as free once the ledger's clock says that it has run out. Every effect of a scope is fenced, so its
    /// lease may be taken at any moment (F-3), and nobody has to wait for a ttl that is over.
    pub run_out_is_free: bool,
}

/// Fencing scopes as registers. Must be made on the runtime that is to serve its connections.
pub struct Scopes {
    config: ScopesConfig,
    line: Line,
    /// The grant of the last acquisition that was tried here.
    tried: Mutex<Option<Grant>>,
    /// The other holder of the scope that was looked at last, if there is one.
    rival: watch::Sender<Option<Rival>>,
}

/// Another sidecar that holds a scope.
#[derive(Clone, Debug)]
pub(super) struct Rival(Record);

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Record { holder, epoch, expires_at, .. }) = self;
        write!(f, "{holder} holds it in epoch {epoch}")?;
        match jiff::Timestamp::from_millisecond(expires_at.0) {
            Ok(until) => write!(f, " until {until}"),
            Err(_) => Ok(()),
        }
    }
}

impl Scopes {
    /// Connects at the first call.
    pub fn new(config: ScopesConfig) -> Self {
        let line = Line::new(config.ledger.clone(), config.patience);
        Self { config, line, tried: Mutex::default(), rival: watch::Sender::new(None) }
    }

    /// Tells `rival` who else holds the scope.
    pub(super) fn telling(self, rival: watch::Sender<Option<Rival>>) -> Self {
        Self { rival, ..self }
    }

    /// A scope as the ledger shows it, or the ledger's refusal.
    pub(super) async fn look(
        &self,
        name: &LeaseName,
    ) -> Result<Result<Observation, v1::Error>, LedgerCallError> {
        let message = v1::ObserveFencingScopeRequest {
            fencing_scope_id: (self.config.scope_of)(name),
            tenant_id: self.config.tenant.clone(),
        };
        let answer = self.call(async |client| client.observe_fencing_scope(message).await).await?;
        match answer.outcome {
            Some(observed::Outcome::Scope(scope)) => Ok(Ok(self.observation(name, &scope)?)),
            Some(observed::Outcome::Error(error)) => Ok(Err(error)),
            None => Err(no_outcome()),
        }
    }

    /// One call. After one that was dropped or not answered its connection is not used again.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Client) -> Result<Response<T>, Status>,
    ) -> Result<T, LedgerCallError> {
        let mut client = self.line.client();
        let mut suspect = Suspect { scopes: self, cleared: false };
        let answer = answered(call(&mut client).await);
        suspect.cleared = !matches!(answer, Err(LedgerCallError::Unknown(_)));
        answer
    }

    fn observation(&self, name: &LeaseName, scope: &FencingScope) -> Result<Observation, LedgerCallError> {
        let mut record = parsed(scope)?;
        let ours = *lock(&self.tried);
        let held = record.clone().filter(|record| !scope.run_out && record.grant.is_some());
        self.meet(name, held.filter(|record| record.grant != ours));
        if scope.run_out && self.config.run_out_is_free {
            record.iter_mut().for_each(free);
        }
        Ok(shown(record))
    }

    /// Takes note of a record that another holds, or of none.
    fn meet(&self, name: &LeaseName, other: Option<Record>) {
        if let Some(Record { holder, epoch, grant, .. }) = &other {
            metrics::denied();
            if self.rival.borrow().as_ref().is_none_or(|Rival(before)| before.grant != *grant) {
                info!(scope = (self.config.scope_of)(name), holder, epoch, "standing by");
            }
        }
        self.rival.send_replace(other.map(Rival));
    }
}

/// Replaces the connection unless its call was answered.
struct Suspect<'a> {
    scopes: &'a Scopes,
    cleared: bool,
}

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        if !self.cleared {
            self.scopes.line.replace();
        }
    }
}

fn parsed(scope: &FencingScope) -> Result<Option<Record>, LedgerCallError> {
    let text = Some(&scope.record).filter(|text| !text.is_empty());
    let record = text.map(|text| serde_json::from_str(text)).transpose();
    record.map_err(|error| {
        LedgerCallError::Refused(format!("its record of the scope is not readable: {error}"))
    })
}

/// Epochs are dense: the record's own is the floor.
fn shown(record: Option<Record>) -> Observation {
    let floor = record.as_ref().map_or(0, |record| record.epoch);
    Observation { record, lineage: Lineage(LINEAGE.to_owned()), floor, version: String::new() }
}

/// As it is once its term has run out; a final record stays as it is. Like a release it is the next beat: the same one
/// without its grant would count as a restored ledger's (T-6).
fn free(record: &mut Record) {
    if record.sealed.is_none() && record.grant.take().is_some() {
        record.beat = record.beat.saturating_add(1);
    }
}

fn no_outcome() -> LedgerCallError {
    LedgerCallError::Unknown("it gave an answer without an outcome".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<LedgerCallError> for BackendError {
    fn from(error: LedgerCallError) -> Self {
        match &error {
            LedgerCallError::NotSent(_) | LedgerCallError::DiskFull(_) => {
                Self::not_applied(error.to_string())
            }
            LedgerCallError::Unknown(_) => Self::unknown(error.to_string()),
            LedgerCallError::Refused(_) => Self::refused(error.to_string()),
        }
    }
}

impl From<v1::Error> for BackendError {
    fn from(error: v1::Error) -> Self {
        Self::refused(format!("the ledger refuses: {}: {}", error.code, error.message))
    }
}

#[async_trait]
impl LeaseBackend for Scopes {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        Ok(self.look(name).await??)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        // an observation of another store's, since the ledger has one lineage for ever.
        if expected.lineage.0 != LINEAGE {
            return Ok(PutOutcome::Conflict(self.observe(name).await?));
        }
        let message = v1::PutFencingScopeRequest {
            fencing_scope_id: (self.config.scope_of)(name),
            tenant_id: self.config.tenant.clone(),
            expected_tag: expected.tag().map_or_else(Vec::new, |tag| tag.to_bytes().to_vec()),
            record: serde_json::to_string(record)
                .map_err(|error| BackendError::not_applied("writing a record as JSON").with_source(error))?,
            change: change.as_str().to_owned(),
        };
        if change == Change::Acquire {
            *lock(&self.tried) = record.grant;
        }
        let answer = self.call(async |client| client.put_fencing_scope(message).await).await?;
        match answer.outcome.ok_or_else(no_outcome)? {
            written::Outcome::Written(done) => {
                if matches!(change, Change::Acquire | Change::Renew) {
                    metrics::acquired(&done.action);
                }
                Ok(PutOutcome::Written(shown(Some(record.clone()))))
            }
            written::Outcome::Conflict(scope) => Ok(PutOutcome::Conflict(self.observation(name, &scope)?)),
            written::Outcome::Error(error) => Err(error.into()),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "ledger",
            watch: true,
            list: false,
            history: false,
            // Only `<scope>/<node>`: the ledger makes no others for candidates.
            creates_registers: true,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    /// Shows the scope whenever it has become free or has another holder. On a connection of its own: its calls wait
    /// for long.
    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let name = LeaseName::new(prefix).map_err(|error| BackendError::refused(error.to_string()))?;
        let client = self.config.ledger.client(self.config.patience);
        let asked = v1::AwaitFencingScopeRequest {
            fencing_scope_id: (self.config.scope_of)(&name),
            tenant_id: self.config.tenant.clone(),
            limit_ms: AWAIT_LIMIT.as_millis() as u32,
            seen_tag: Vec::new(),
            any_holder: true,
            seen_grant: Vec::new(),
        };
        let run_out_is_free = self.config.run_out_is_free;
        let hints = stream::unfold((client, asked), move |(mut client, mut asked)| {
            let name = name.clone();
            async move {
                loop {
                    let mut request = Request::new(asked.clone());
                    request.set_timeout(AWAIT_LIMIT * 2);
                    let answer = client.await_fencing_scope(request).await.ok()?.into_inner();
                    let Some(scope) = answer.scope else { continue };
                    let mut record = parsed(&scope).ok()??;
                    (asked.seen_tag, asked.seen_grant) = match record.grant {
                        Some(grant) if !answer.free => (Vec::new(), grant.to_bytes().to_vec()),
                        _ => (record.tag.to_bytes().to_vec(), Vec::new()),
                    };
                    if scope.run_out && !run_out_is_free {
                        continue;
                    }
                    if answer.free {
                        free(&mut record);
                    }
                    return Some((Hint::Shows(name, shown(Some(record))), (client, asked)));
                }
            }
        });
        Ok(Box::pin(hints))
    }
}
