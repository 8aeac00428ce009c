//! An ingest that answers what a test says, and remembers when it was asked.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use lease_testbed::wait_until;

use crate::stage::LIMIT;

/// A status, and what `Retry-After` says with it.
pub(crate) type Answer = (u16, Option<&'static str>);

pub(crate) struct Fake {
    pub(crate) address: String,
    told: Arc<Mutex<Told>>,
}

struct Told {
    answers: Vec<Answer>,
    asked: Vec<(Instant, String)>,
}

impl Fake {
    /// Gives these answers in turn, and the last one again and again.
    pub(crate) async fn start(answers: &[Answer]) -> anyhow::Result<Self> {
        let told = Arc::new(Mutex::new(Told { answers: answers.to_vec(), asked: Vec::new() }));
        let router = Router::new().route("/v1/events", post(answer)).with_state(told.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, told })
    }

    /// The bodies of the first `count` requests, and how much later than the first each came.
    pub(crate) async fn asked(&self, count: usize) -> anyhow::Result<Vec<(Duration, String)>> {
        let all = || self.told.lock().expect("not poisoned").asked.clone();
        wait_until("it is asked that often", LIMIT, || async { all().len() >= count }).await?;
        let asked = all();
        Ok(asked.iter().take(count).map(|(at, body)| (*at - asked[0].0, body.clone())).collect())
    }
}

async fn answer(State(told): State<Arc<Mutex<Told>>>, body: String) -> impl IntoResponse {
    let mut told = told.lock().expect("not poisoned");
    told.asked.push((Instant::now(), body));
    let (status, retry_after) = if told.answers.len() > 1 { told.answers.remove(0) } else { told.answers[0] };
    let mut headers = HeaderMap::new();
    if let Some(text) = retry_after {
        headers.insert("retry-after", text.parse().expect("a value"));
    }
    (StatusCode::from_u16(status).expect("a status"), headers, "{\"accepted\":1,\"duplicates\":0}")
}
