//! Decisions: only while the scope is held, and each in the name of its term, which the ledger checks in the same
//! transaction as what it writes.

use std::time::Duration;

use axum::http::StatusCode;
use lease_core::Leadership;
use lease_core::fence::FENCING_EPOCH_STALE;
use serde::Deserialize;
use tracing::error;

use super::held::Held;
use super::ledger::{LedgerCallError, Line, request, within};
use super::refusal::{Refusal, refuse};
use crate::rpc::ledger::v1::reservation_response::Outcome;
use crate::rpc::ledger::v1::{Reservation, ReservationResponse, ReserveRequest, SettleRequest};

/// The body of `POST /v1/reservations`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReserveBody {
    pub(super) tenant: String,
    pub(super) amount_minor: i64,
    pub(super) currency: String,
    pub(super) ttl_seconds: u32,
    pub(super) idempotency_key: String,
}

/// The two ways to settle a reservation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Settle {
    Commit,
    Release,
}

impl Settle {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Release => "release",
        }
    }
}

/// Makes decisions at the ledger.
pub(super) struct Decider {
    pub(super) held: Held,
    pub(super) tenant: String,
    pub(super) line: Line,
    pub(super) call_limit: Duration,
}

impl Decider {
    pub(super) async fn reserve(&self, body: ReserveBody, id: &str) -> Result<Reservation, Refusal> {
        check(&body)?;
        if body.tenant != self.tenant {
            let error = format!("tenant {:?}: this sidecar serves another tenant", body.tenant);
            return Err(refuse(StatusCode::FORBIDDEN, "TENANT_MISMATCH", error));
        }
        let term = self.term()?;
        let message = ReserveRequest {
            fence: Some(self.held.fence(&term)),
            idempotency_key: body.idempotency_key,
            amount_minor: body.amount_minor,
            currency: body.currency,
            ttl_seconds: body.ttl_seconds,
            request_id: id.to_owned(),
        };
        let mut client = self.line.client();
        let call = client.reserve(request(message, self.call_limit, id));
        self.outcome(&term, within(self.call_limit, call).await)
    }

    /// Without a key of the caller's own a reservation is committed once and released once: that is key enough.
    pub(super) async fn settle(
        &self,
        what: Settle,
        reservation: String,
        key: Option<String>,
        id: &str,
    ) -> Result<Reservation, Refusal> {
        let key = key.unwrap_or_else(|| format!("{}/{reservation}", what.name()));
        check_key(&key)?;
        let term = self.term()?;
        let message = SettleRequest {
            fence: Some(self.held.fence(&term)),
            idempotency_key: key,
            reservation_id: reservation,
            request_id: id.to_owned(),
        };
        let (mut client, message) = (self.line.client(), request(message, self.call_limit, id));
        let answer = match what {
            Settle::Commit => within(self.call_limit, client.commit(message)).await,
            Settle::Release => within(self.call_limit, client.release(message)).await,
        };
        self.outcome(&term, answer)
    }

    /// The term, computed from the clock at this very moment: past its deadline nothing is even sent.
    fn term(&self) -> Result<Leadership, Refusal> {
        self.held.now().ok_or_else(|| {
            let error = "the fencing lease is not held here at this moment: nothing was done; send again";
            refuse(StatusCode::SERVICE_UNAVAILABLE, "FENCING_LEASE_NOT_HELD", error)
        })
    }

    fn outcome(
        &self,
        term: &Leadership,
        answer: Result<ReservationResponse, LedgerCallError>,
    ) -> Result<Reservation, Refusal> {
        let unclear = || LedgerCallError::Unknown("it gave an answer without an outcome".to_owned());
        match answer?.outcome.ok_or_else(unclear)? {
            Outcome::Reservation(reservation) => Ok(reservation),
            Outcome::Error(refused) => {
                if refused.code == FENCING_EPOCH_STALE {
                    let (epoch, code) = (term.term().epoch, FENCING_EPOCH_STALE);
                    error!(epoch, code, "a write was refused by the fence: this term is over");
                    self.held.refuse(term);
                }
                Err(refused.into())
            }
        }
    }
}

fn check(body: &ReserveBody) -> Result<(), Refusal> {
    let bad = |error: &str| Err(refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", error));
    if body.amount_minor <= 0 {
        return bad("amount_minor: use a whole number of minor units, at least 1");
    }
    if body.currency.len() != 3 || !body.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return bad("currency: use the three capital letters of ISO 4217, for example EUR");
    }
    if !(1..=86_400).contains(&body.ttl_seconds) {
        return bad("ttl_seconds: use 1 to 86400");
    }
    check_key(&body.idempotency_key)
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if (1..=200).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let error =
        "idempotency_key: use 1 to 200 characters without control characters, the same when you send again";
    Err(refuse(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", error))
}
