//! `POST /v1/events`: a batch of CloudEvents in the name of a forwarder's term.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use lease_core::fence::{FENCING_EPOCH_ABOVE_CEILING, FENCING_EPOCH_STALE};
use lease_worker_common::access::{Callers, NotAllowed};
use lease_worker_common::quoted::quoted;
use lease_worker_common::tls::PeerNames;
use lease_worker_common::{
    bad_rows::is_of_the_data, database::StoreError, request_body, request_id, under_way::UnderWay,
};
use metrics::counter;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::metrics::{ACCEPTED, CALLERS_REFUSED, DUPLICATES, FENCE_REFUSED, REQUESTS};
use crate::canonical::{ArrivedEvent, Canonical, Ingested, storable};
use crate::cloudevents::{BATCH, CloudEvent, EVENT_TYPE, EventKey, term_from};

/// When a busy server wants to be asked again.
const RETRY_AFTER_SECONDS: &str = "1";

/// The handler's state.
pub(super) struct Ingest {
    /// The store of events.
    pub(super) store: Arc<dyn Canonical>,
    /// Who may send what.
    pub(super) access: Callers,
    /// One permit for each request under way; there is no queue behind them.
    pub(super) permits: Semaphore,
    /// The largest body.
    pub(super) max_body_bytes: usize,
    /// The longest time for one request, its body included.
    pub(super) time_limit: Duration,
    /// The requests that stopping waits for.
    pub(super) under_way: UnderWay,
}

/// The route.
pub(super) fn router(ingest: Arc<Ingest>) -> Router {
    let limit = DefaultBodyLimit::max(ingest.max_body_bytes);
    Router::new().route("/v1/events", post(receive)).layer(limit).with_state(ingest)
}

/// A request that was not done.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    error: String,
}

fn refuse(status: StatusCode, code: &'static str, error: impl Into<String>) -> Refusal {
    Refusal { status, code, error: error.into() }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "code": self.code, "error": self.error }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let after = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

async fn receive(State(ingest): State<Arc<Ingest>>, request: Request) -> Response {
    let response = match tokio::time::timeout(ingest.time_limit, ingest.take(request)).await {
        Ok(Ok(ingested)) => Json(ingested).into_response(),
        Ok(Err(refusal)) => {
            match refusal.status {
                StatusCode::CONFLICT => warn!(error = refusal.error, "an older term was refused"),
                status if status.is_server_error() => warn!(%status, error = refusal.error, "request failed"),
                status => debug!(%status, error = refusal.error, "request refused"),
            }
            refusal.into_response()
        }
        // A dropped transaction may still be committed: the sender sends again and finds its events kept.
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "TIMED_OUT", "not done in time; send again")
            .into_response(),
    };
    counter!(REQUESTS, "code" => response.status().as_u16().to_string()).increment(1);
    response
}

impl Ingest {
    async fn take(&self, request: Request) -> Result<Ingested, Refusal> {
        let stopping =
            || refuse(StatusCode::SERVICE_UNAVAILABLE, "STOPPING", "this instance stops; send again");
        let caller = self.access.caller(request.headers(), request.extensions().get::<PeerNames>());
        let caller = caller.map_err(|unknown| {
            CALLERS_REFUSED.unauthenticated(&unknown);
            refuse(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", unknown.to_string())
        })?;
        let piece = self.under_way.begin("a request whose body is still read").ok_or_else(stopping)?;
        // Before the body is read: a server under pressure takes in nothing.
        let busy =
            || refuse(StatusCode::SERVICE_UNAVAILABLE, "BUSY", "too many requests at once; send again");
        let _permit = self.permits.try_acquire().map_err(|_| busy())?;
        check_type(request.headers())?;
        let (lease, term) =
            term_from(|name| request.headers().get(name).and_then(|value| value.to_str().ok()))
                .map_err(|error| refuse(StatusCode::BAD_REQUEST, "TERM_REQUIRED", error))?;
        let denied = |code| {
            move |refused: NotAllowed| {
                CALLERS_REFUSED.forbidden(&refused);
                refuse(StatusCode::FORBIDDEN, code, refused.to_string())
            }
        };
        caller.may_lead(lease.as_str()).map_err(denied("LEASE_NOT_ALLOWED"))?;
        let body = Bytes::from_request(request, &()).await;
        let body = body.map_err(|error| refuse(error.status(), "BAD_BODY", error.body_text()))?;
        let batch: Vec<CloudEvent<'_>> =
            request_body::read(&body).map_err(|error| refuse(StatusCode::BAD_REQUEST, "BAD_BATCH", error))?;
        let events = batch.iter().map(arrived).collect::<Result<Vec<_>, _>>();
        let events = events.map_err(|error| refuse(StatusCode::BAD_REQUEST, "BAD_EVENT", error))?;
        for event in &events {
            caller.may_forward(&event.key.tenant_id).map_err(denied("TENANT_NOT_ALLOWED"))?;
        }
        // As below: these would be refused for ever.
        let storable = events.iter().try_for_each(storable::check);
        storable.map_err(|error| refuse(StatusCode::UNPROCESSABLE_ENTITY, "BAD_EVENT", error))?;
        piece.is_now(format_args!("a batch of {} events of term {}", events.len(), term.epoch));
        let ingested = self.store.ingest(&lease, term, &events).await.map_err(|error| match error {
            StoreError::Stale(stale) => {
                counter!(FENCE_REFUSED).increment(1);
                refuse(StatusCode::CONFLICT, FENCING_EPOCH_STALE, stale.to_string())
            }
            StoreError::AboveCeiling(above) => {
                refuse(StatusCode::BAD_REQUEST, FENCING_EPOCH_ABOVE_CEILING, above.to_string())
            }
            // It would be refused for ever; the sender finds out which it is.
            StoreError::Failed(error) if is_of_the_data(&error) => {
                warn!(%error, "an event can't be stored");
                refuse(StatusCode::UNPROCESSABLE_ENTITY, "BAD_EVENT", "an event of the batch can't be stored")
            }
            error if error.is_full_disk() => {
                warn!(%error, "the canonical store's disk is full");
                let advice = "nothing was kept, since the disk of the canonical store is full; send again";
                refuse(StatusCode::SERVICE_UNAVAILABLE, "DISK_FULL", advice)
            }
            // Details are for our log: the answer may reach another team.
            error => {
                warn!(%error, "the canonical store failed");
                refuse(StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", "the store failed; send again")
            }
        })?;
        for event in &batch {
            if let Some(request_id) = event.requestid.as_deref().filter(|id| request_id::is_valid(id)) {
                info!(target: request_id::TARGET, request_id, event = event.id, "ingested");
            }
        }
        counter!(ACCEPTED).increment(ingested.accepted);
        counter!(DUPLICATES).increment(ingested.duplicates);
        Ok(ingested)
    }
}

/// The number of events in a body, if all can be kept: for this project's fuzzing.
pub(crate) fn count(body: &[u8]) -> Result<usize, String> {
    let batch: Vec<CloudEvent<'_>> = request_body::read(body)?;
    let events = batch.iter().map(arrived).collect::<Result<Vec<_>, _>>()?;
    events.iter().try_for_each(storable::check)?;
    Ok(events.len())
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case(BATCH) {
        return Ok(());
    }
    Err(refuse(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "BAD_TYPE",
        format!("content-type {}: use {BATCH}", quoted(given)),
    ))
}

fn arrived<'a>(event: &'a CloudEvent<'a>) -> Result<ArrivedEvent<'a>, String> {
    if event.specversion != "1.0" || event.r#type != EVENT_TYPE {
        return Err(format!("event {}: use specversion 1.0 and type {EVENT_TYPE}", quoted(&event.id)));
    }
    let key = EventKey::parse(&event.id)
        .ok_or_else(|| format!("event {}: the id must be tenant/instance/sequence", quoted(&event.id)))?;
    let fencing_epoch = event.fencingepoch.parse();
    let fencing_epoch =
        fencing_epoch.map_err(|error| format!("event {}: fencingepoch: {error}", quoted(&event.id)))?;
    Ok(ArrivedEvent { key, event_time: event.time.as_millisecond(), fencing_epoch, payload: event.data })
}
