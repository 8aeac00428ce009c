//! The socket's API for the pods of the node: HTTP/1.1 with JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use lease_worker_common::{request_body, request_id, under_way::UnderWay};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::info;

use super::decide::{Decider, ReserveBody, Settle};
use super::held::fresh_id;
use super::metrics;
use super::refusal::{Refusal, refuse};
use crate::rpc::ledger::v1::Reservation;

/// The largest body: a reservation is far below it.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// The time limit for a request's body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(5);

/// The state that the handlers share.
pub(super) struct PodApi {
    pub(super) decider: Decider,
    /// One permit for each request under way; there is no queue behind them.
    pub(super) permits: Semaphore,
    /// The requests that stopping waits for.
    pub(super) under_way: UnderWay,
}

/// The routes.
pub(super) fn router(api: Arc<PodApi>) -> Router {
    Router::new()
        .route("/v1/reservations", post(reserve))
        .route("/v1/reservations/{id}/commit", post(commit))
        .route("/v1/reservations/{id}/release", post(release))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

/// `POST /v1/reservations/{id}/commit` and `/release`; the body is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettleBody {
    idempotency_key: Option<String>,
}

async fn reserve(State(api): State<Arc<PodApi>>, request: Request) -> Response {
    let decide = async |id: &str, request: Request| {
        let body: ReserveBody = read(request, None).await?;
        let reservation = api.decider.reserve(body, id).await?;
        Ok((StatusCode::CREATED, reservation))
    };
    api.answer("reserve", request, decide).await
}

async fn commit(
    State(api): State<Arc<PodApi>>,
    Path(reservation): Path<String>,
    request: Request,
) -> Response {
    api.settle(Settle::Commit, reservation, request).await
}

async fn release(
    State(api): State<Arc<PodApi>>,
    Path(reservation): Path<String>,
    request: Request,
) -> Response {
    api.settle(Settle::Release, reservation, request).await
}

impl PodApi {
    async fn settle(&self, what: Settle, reservation: String, request: Request) -> Response {
        let decide = async |id: &str, request: Request| {
            let body: SettleBody = read(request, Some(SettleBody::default())).await?;
            let settled = self.decider.settle(what, reservation, body.idempotency_key, id).await?;
            Ok((StatusCode::OK, settled))
        };
        self.answer(what.name(), request, decide).await
    }

    /// Counts a decision as under way, gives it an id and logs it.
    async fn answer(
        &self,
        what: &'static str,
        request: Request,
        decide: impl AsyncFnOnce(&str, Request) -> Result<(StatusCode, Reservation), Refusal>,
    ) -> Response {
        let id = id_of(request.headers());
        let busy =
            || refuse(StatusCode::SERVICE_UNAVAILABLE, "BUSY", "too many requests at once; send again");
        let stopping =
            || refuse(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "this sidecar stops; send again");
        let decided = async {
            let _piece = self.under_way.begin(format_args!("{what} of request {id}")).ok_or_else(stopping)?;
            let _permit = self.permits.try_acquire().map_err(|_| busy())?;
            decide(&id, request).await
        };
        let mut response = match decided.await {
            Ok((status, reservation)) => {
                let Reservation { reservation_id, state, fencing_epoch, .. } = &reservation;
                info!(target: request_id::TARGET, request_id = id, reservation_id, fencing_epoch, state, "{what} done");
                (status, Json(as_json(&reservation))).into_response()
            }
            Err(refusal) => {
                info!(target: request_id::TARGET, request_id = id, status = refusal.status.as_u16(),
                    code = refusal.code, error = refusal.error, "{what} refused");
                refusal.into_response()
            }
        };
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(request_id::HEADER, id);
        }
        metrics::request(response.status().as_u16());
        response
    }
}

/// The caller's request id if it is valid, else a fresh one.
fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(request_id::HEADER).and_then(|value| value.to_str().ok());
    given.filter(|id| request_id::is_valid(id)).map_or_else(fresh_id, str::to_owned)
}

async fn read<T: DeserializeOwned>(request: Request, empty: Option<T>) -> Result<T, Refusal> {
    let bad = |error: String| refuse(StatusCode::BAD_REQUEST, "BAD_BODY", error);
    let typed = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let typed = typed.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let body = tokio::time::timeout(BODY_LIMIT, Bytes::from_request(request, &())).await;
    let body =
        body.map_err(|_| refuse(StatusCode::REQUEST_TIMEOUT, "BAD_BODY", "the body did not arrive in time"))?;
    let body = body.map_err(|error| refuse(error.status(), "BAD_BODY", error.body_text()))?;
    match empty {
        Some(empty) if body.is_empty() => return Ok(empty),
        _ => {}
    }
    if typed.as_deref() != Some("application/json") {
        let error = format!("content-type {:?}: use application/json", typed.unwrap_or_default());
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "BAD_TYPE", error));
    }
    request_body::read(&body).map_err(bad)
}

fn as_json(reservation: &Reservation) -> serde_json::Value {
    let at = reservation.expires_at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    json!({
        "reservation_id": reservation.reservation_id,
        "state": reservation.state,
        "expires_at": at.map(|at| at.to_string()),
        "fencing_epoch": reservation.fencing_epoch,
    })
}
