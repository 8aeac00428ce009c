//! A request that was not done, as its caller sees it: a status, a code for programs, a sentence for people.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use lease_core::fence::FENCING_EPOCH_STALE;
use serde_json::json;

use super::ledger::LedgerCallError;
use crate::rpc::ledger::v1::Error;

/// When somebody who was told to come back should do so.
const RETRY_AFTER_SECONDS: &str = "1";

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) error: String,
}

pub(super) fn refuse(status: StatusCode, code: &str, error: impl Into<String>) -> Refusal {
    Refusal { status, code: code.to_owned(), error: error.into() }
}

/// A refusal by the ledger itself.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error.code.as_str() {
            "INVALID_ARGUMENT" => StatusCode::BAD_REQUEST,
            "TENANT_MISMATCH" => StatusCode::FORBIDDEN,
            "RESERVATION_UNKNOWN" | "BUDGET_UNKNOWN" => StatusCode::NOT_FOUND,
            "RESERVATION_WRONG_STATE" | "RESERVATION_EXPIRED" | "BUDGET_EXCEEDED" => StatusCode::CONFLICT,
            "IDEMPOTENCY_KEY_REUSED" => StatusCode::UNPROCESSABLE_ENTITY,
            // Nothing was written. Another sidecar serves the scope by now, or this one will again.
            FENCING_EPOCH_STALE | "FENCING_SCOPE_UNKNOWN" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        refuse(status, &error.code, error.message)
    }
}

impl From<LedgerCallError> for Refusal {
    fn from(error: LedgerCallError) -> Self {
        // Details are for our log: the pods need to know only what to do.
        let (status, code, advice) = match &error {
            LedgerCallError::NotSent(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "LEDGER_UNAVAILABLE", "nothing was done; send again")
            }
            LedgerCallError::DiskFull(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "LEDGER_UNAVAILABLE",
                "nothing was done, since the disk of the ledger's database is full; send again",
            ),
            LedgerCallError::Unknown(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "OUTCOME_UNKNOWN",
                "whether it was done is unknown; send again with the same idempotency key",
            ),
            LedgerCallError::Refused(_) => {
                (StatusCode::BAD_GATEWAY, "LEDGER_REFUSED", "the ledger does not take this request")
            }
        };
        tracing::warn!(%error, code, "no answer for a request");
        refuse(status, code, advice)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "code": self.code, "error": self.error }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let after = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}
