//! Sends batches to canonical-ingest.

use std::borrow::Cow;
use std::time::Duration;

use lease_core::fence::{FENCING_EPOCH_ABOVE_CEILING, FENCING_EPOCH_STALE};
use lease_core::{LeaseName, Term};
use lease_worker_common::{credentials::Token, reloaded::Reloaded, request_id};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::canonical::Ingested;
use crate::cloudevents::{BATCH, CloudEvent, EVENT_TYPE, term_headers};
use crate::outbox::PendingRow;

/// The way to one canonical-ingest, for one lease.
pub(super) struct Sender {
    /// Its calls are limited in time.
    pub(super) client: Reloaded<Client>,
    pub(super) token: Option<Token>,
    pub(super) url: Url,
    pub(super) lease: LeaseName,
}

/// Why a batch is not known to have arrived. It may be sent again in each case: events arrive once by their key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// A later term has been admitted there (F-4).
    #[error("canonical-ingest refused the term: {FENCING_EPOCH_STALE}")]
    Stale,
    /// No answer, or one that says to try again.
    #[error("canonical-ingest is not available: {why}")]
    Unavailable {
        /// For the log.
        why: String,
        /// When to try again, if it said so.
        retry_after: Option<Duration>,
    },
    /// The batch is larger than it accepts.
    #[error("canonical-ingest does not accept a batch of this size")]
    TooLarge,
    /// It will not accept this batch.
    #[error("canonical-ingest does not accept the batch: {0}")]
    Rejected(String),
}

/// Does it refuse what is in the batch?
fn is_of_the_rows(status: StatusCode, code: &str) -> bool {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            !["TERM_REQUIRED", FENCING_EPOCH_ABOVE_CEILING].contains(&code)
        }
        StatusCode::FORBIDDEN => code == "TENANT_NOT_ALLOWED",
        _ => false,
    }
}

impl Sender {
    /// Sends one batch in the name of `term`.
    pub(super) async fn send(&self, term: Term, rows: &[PendingRow]) -> Result<Ingested, SendError> {
        let body = body(rows).map_err(SendError::Rejected)?;
        let unavailable = |error: reqwest::Error| SendError::Unavailable {
            why: chain(&error.without_url()),
            retry_after: None,
        };
        let mut request = self.client.now().post(self.url.clone()).header(CONTENT_TYPE, BATCH).body(body);
        for (name, value) in term_headers(&self.lease, term) {
            request = request.header(name, value);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.header());
        }
        let reply = request.send().await.map_err(unavailable)?;
        let status = reply.status();
        if status.is_success() {
            return reply.json().await.map_err(unavailable);
        }
        let retry_after = reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let refusal: Refusal = reply.json().await.unwrap_or_default();
        Err(match status {
            StatusCode::CONFLICT if refusal.code == FENCING_EPOCH_STALE => SendError::Stale,
            StatusCode::PAYLOAD_TOO_LARGE => SendError::TooLarge,
            _ if is_of_the_rows(status, &refusal.code) => {
                SendError::Rejected(format!("{status}: {} {}", refusal.code, refusal.error))
            }
            // A path, a proxy, a token or a term: no row is to blame, and none is left out.
            _ => SendError::Unavailable { why: format!("{status}: {}", refusal.error), retry_after },
        })
    }
}

/// canonical-ingest's answer with a status that is no success.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: String,
    error: String,
}

fn body(rows: &[PendingRow]) -> Result<Vec<u8>, String> {
    let events: Result<Vec<_>, String> = rows.iter().map(event).collect();
    serde_json::to_vec(&events?).map_err(|error| error.to_string())
}

fn event(row: &PendingRow) -> Result<CloudEvent<'_>, String> {
    let key = &row.event.key;
    let time = jiff::Timestamp::from_millisecond(row.event.event_time)
        .map_err(|error| format!("outbox row {}: event_time: {error}", row.outbox_id))?;
    Ok(CloudEvent {
        specversion: Cow::Borrowed("1.0"),
        r#type: Cow::Borrowed(EVENT_TYPE),
        source: Cow::Borrowed("/spendguard/audit-outbox"),
        id: key.id(),
        time,
        datacontenttype: Cow::Borrowed("application/json"),
        fencingepoch: row.event.fencing_epoch.to_string(),
        requestid: request_id::of_payload(&row.event.payload),
        data: &row.event.payload,
    })
}

/// reqwest says what went wrong only in the sources of its errors.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
