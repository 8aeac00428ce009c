//! `/healthz`, `/readyz` and `/metrics`, the same for every role.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use lease_settings::{Block, Section, Setting, ValueKind};
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::database::StoreError;
use crate::stderr;

/// Lines of the log that nobody will read.
const LOG_LINES_DROPPED: &str = "leasehold_log_lines_dropped_total";

/// 1, with the version and what runs as labels.
const BUILD_INFO: &str = "leasehold_build_info";

/// The mode of a role that has no lease.
pub const NO_LEASE: &str = "none";

/// The workers' HTTP server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthSettings {
    /// `host:port`.
    pub listen: String,
}

impl Block for HealthSettings {
    const SECTION: Section = Section {
        name: "http",
        about: "the workers' HTTP server",
        settings: &[Setting::new(
            "listen",
            "LEASEHOLD_HTTP_LISTEN",
            ValueKind::Address,
            "where a worker serves /healthz, /readyz and /metrics, and canonical-ingest its events",
        )
        .default("127.0.0.1:8080")
        .flag("listen")],
    };
}

/// The time limit of one probe or scrape.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The time limit for answers that are still being written at the very end.
pub const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The buckets of calls' durations.
const REQUEST_SECONDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// A role's readiness, and gauges that it reads on demand.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// Can it do its work, or take it over? Else: why not. It asks for what the work needs: a store that can be read is
    /// not ready for whoever writes there.
    async fn ready(&self) -> Result<(), String>;

    /// Brings gauges that are computed at each scrape up to date; those that a store is asked for by [`show_age`].
    async fn refresh(&self) {}
}

/// Reads an age from a store and shows it. While the store doesn't tell it is unknown, NaN: its last value would be taken
/// for the present one.
pub async fn show_age(name: &'static str, read: impl Future<Output = Result<Duration, StoreError>>) {
    let known = tokio::time::timeout(PROBE_LIMIT, read).await;
    gauge!(name).set(known.ok().and_then(Result::ok).map_or(f64::NAN, |age| age.as_secs_f64()));
}

/// The process's metrics. `role` runs in it, and its lease is in a store of the mode `mode`.
///
/// # Errors
/// The process has metrics already.
pub fn metrics(role: &'static str, mode: &str) -> anyhow::Result<PrometheusHandle> {
    let ages = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0];
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_leader_age_seconds".to_owned()), &ages)?
        .set_buckets_for_metric(Matcher::Suffix("_request_seconds".to_owned()), &REQUEST_SECONDS)?
        .install_recorder()?;
    describe_counter!(LOG_LINES_DROPPED, "log lines dropped because standard error could not be written");
    describe_gauge!(BUILD_INFO, "1, with the version, the role, and the mode of its lease");
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("role", role), ("mode", mode)];
    let labels = labels.map(|(label, value)| (label, value.to_owned()));
    gauge!(BUILD_INFO, &labels).set(1);
    metrics_process::Collector::default().describe();
    Ok(metrics)
}

/// The three pages. `/readyz` says no from the moment on in which the process is told to stop.
pub fn router(metrics: PrometheusHandle, probe: Arc<dyn Probe>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Pages { metrics, probe, stop })
}

#[derive(Clone)]
struct Pages {
    metrics: PrometheusHandle,
    probe: Arc<dyn Probe>,
    stop: CancellationToken,
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    if pages.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    match tokio::time::timeout(PROBE_LIMIT, pages.probe.ready()).await {
        Ok(Ok(())) => (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {PROBE_LIMIT:?}\n")),
    }
}

async fn render(State(pages): State<Pages>) -> impl IntoResponse {
    pages.probe.refresh().await;
    counter!(LOG_LINES_DROPPED).absolute(stderr::dropped());
    metrics_process::Collector::default().collect();
    pages.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], pages.metrics.render())
}

/// Listens on `address`; returns the address with the port that the system chose if it was 0.
///
/// # Errors
/// The address can't be used; `flag` names another.
pub async fn listen(address: &str, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot listen on {address}: {error}; choose another {flag}"))?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}
