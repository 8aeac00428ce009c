//! canonical-ingest by itself, as any client sees it.

use lease_core::{Grant, LeaseName, Term};
use lease_spendguard::cloudevents::{BATCH, term_headers};
use lease_testbed::Signal;
use lease_worker_common::http_client;
use serde_json::{Value, json};

use crate::stage::{LIMIT, Stage, Worker};

async fn post(
    to: &Worker,
    term: Option<Term>,
    content_type: &str,
    body: String,
) -> anyhow::Result<(u16, Value)> {
    let mut request = http_client(LIMIT)?.post(format!("http://{}/v1/events", to.address));
    if let Some(term) = term {
        for (name, value) in term_headers(&LeaseName::new("outbox-forwarder")?, term) {
            request = request.header(name, value);
        }
    }
    let reply = request.header("content-type", content_type).body(body).send().await?;
    Ok((reply.status().as_u16(), reply.json().await?))
}

fn event(sequence: i64, fencing_epoch: u64) -> Value {
    json!({
        "specversion": "1.0", "type": "com.spendguard.audit.v1", "source": "/test",
        "id": format!("acme/ledger-0/{sequence}"), "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/json", "fencingepoch": fencing_epoch.to_string(), "data": { "n": sequence }
    })
}

fn term(epoch: u64, grant: u128) -> Option<Term> {
    Some(Term { epoch, grant: Grant(grant) })
}

async fn refuses_older_terms_but_no_rows_epoch(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let send = async |term, events: &[Value]| post(&ingest, term, BATCH, json!(events).to_string()).await;

    let counts =
        |accepted: u64, duplicates: u64| (200, json!({ "accepted": accepted, "duplicates": duplicates }));
    assert_eq!(send(term(5, 1), &[event(0, 900), event(1, 3)]).await?, counts(2, 0));
    assert_eq!(
        send(term(5, 1), &[event(1, 3), event(2, 1)]).await?,
        counts(1, 1),
        "a repetition is no error"
    );
    for older in [term(4, 1), term(5, 2)] {
        let (status, body) = send(older, &[event(3, 999)]).await?;
        assert_eq!((status, &body["code"]), (409, &json!("FENCING_EPOCH_STALE")), "{older:?}");
    }
    assert_eq!(send(term(6, 9), &[event(3, 1)]).await?, counts(1, 0), "a row's own epoch is no reason");
    let (status, _) = send(term(5, 1), &[event(0, 1)]).await?;
    assert_eq!(status, 409, "not even what is there already may be sent by an older term");
    assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 4);
    assert_eq!(ingest.metric("spendguard_canonical_ingest_fence_refused_total").await?, 3.0);
    assert_eq!(ingest.metric("spendguard_canonical_ingest_events_duplicate_total").await?, 1.0);

    ingest.process.signal(Signal::INT)?;
    assert_eq!(ingest.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn sqlite_refuses_older_terms_but_no_rows_epoch() -> anyhow::Result<()> {
    refuses_older_terms_but_no_rows_epoch(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_refuses_older_terms_but_no_rows_epoch() -> anyhow::Result<()> {
    refuses_older_terms_but_no_rows_epoch(Stage::postgres().await?).await
}

/// One request with an epoch that no lease ever issued, and the way out of what it does.
async fn a_poisoned_mark_is_set_back_by_the_operator_and_an_impossible_epoch_makes_none(
    stage: Stage,
) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let send = async |term: Option<Term>, sequence: i64| {
        post(&ingest, term, BATCH, json!([event(sequence, 1)]).to_string()).await
    };
    for epoch in [Term::MAX_EPOCH + 1, i64::MAX as u64] {
        let (status, body) = send(term(epoch, 1), 0).await?;
        assert_eq!((status, &body["code"]), (400, &json!("TERM_REQUIRED")), "{body}");
        assert!(
            body["error"].as_str().is_some_and(|why| why.contains(&Term::MAX_EPOCH.to_string())),
            "{body}"
        );
    }
    assert_eq!(send(term(1, 1), 0).await?.0, 200, "it has poisoned nothing");
    assert_eq!(send(term(Term::MAX_EPOCH, 1), 1).await?.0, 200);
    assert_eq!(send(term(2, 2), 2).await?.0, 409);

    let resource = "canonical-ingest/outbox-forwarder";
    let lower = async |more: &[&str]| {
        let args = ["fence", "lower", "outbox-forwarder", "--resource", resource];
        stage.operator(&[&args[..], &["--fence-database-url", &stage.canonical], more].concat()).await
    };
    // The lease's terms begin above its register's epoch, whatever the mark is set to.
    let raise = ["fence", "raise", "outbox-forwarder", "--above", "40"];
    if stage.server.is_none() {
        stage.operator(&["init", "--new", "outbox-forwarder"]).await?;
    }
    stage.operator(&raise).await?;
    let below = lower(&["--to", "7"]).await.expect_err("old terms would be let in").to_string();
    assert!(below.contains("is below"), "{below}");
    let said = lower(&["--note", "INC-78", "--json"]).await?;
    let said: Value = serde_json::from_str(&said)?;
    assert_eq!((&said["resource"], &said["from"]), (&json!(resource), &json!(Term::MAX_EPOCH)), "{said}");
    let issued = said["to"].as_u64().expect("an epoch");
    assert!(issued > 40);
    assert_eq!(send(term(issued - 1, 2), 2).await?.0, 409, "old terms are refused as before");
    assert_eq!(send(term(issued + 1, 2), 2).await?.0, 200);
    let moved = lower(&[]).await.expect_err("the mark is a real one now").to_string();
    assert!(moved.contains("leasehold fence raise"), "{moved}");
    let told = "SELECT count(*) FROM leasehold_fence_lowerings WHERE note = 'INC-78' AND lowered_by <> ''";
    assert_eq!(stage.canonical_int(told).await?, 1);
    Ok(())
}

#[tokio::test]
async fn sqlite_a_poisoned_mark_is_set_back_by_the_operator() -> anyhow::Result<()> {
    a_poisoned_mark_is_set_back_by_the_operator_and_an_impossible_epoch_makes_none(Stage::sqlite().await?)
        .await
}

#[tokio::test]
async fn postgres_a_poisoned_mark_is_set_back_by_the_operator() -> anyhow::Result<()> {
    a_poisoned_mark_is_set_back_by_the_operator_and_an_impossible_epoch_makes_none(Stage::postgres().await?)
        .await
}

#[tokio::test]
async fn says_what_is_wrong_with_a_request() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let url = stage.canonical.clone();
    let args = ["worker", "canonical-ingest", "--canonical-url", &url, "--max-body-bytes", "4096"];
    let ingest = Worker::start(&args).await?;
    let good = json!([event(0, 1)]).to_string();
    let mut odd = event(0, 1);
    odd["type"] = json!("com.example.other");
    let mut nameless = event(0, 1);
    nameless["id"] = json!("no-key");
    for (term, content_type, body, status, code) in [
        (None, BATCH, good.clone(), 400, "TERM_REQUIRED"),
        (term(1, 1), "application/json", good.clone(), 415, "BAD_TYPE"),
        (term(1, 1), BATCH, "[{".to_owned(), 400, "BAD_BATCH"),
        (term(1, 1), BATCH, json!([odd]).to_string(), 400, "BAD_EVENT"),
        (term(1, 1), BATCH, json!([nameless]).to_string(), 400, "BAD_EVENT"),
        (term(1, 1), BATCH, " ".repeat(5_000), 413, "BAD_BODY"),
    ] {
        let (got, answer) = post(&ingest, term, content_type, body).await?;
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{answer}");
    }
    assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 0, "nothing was kept");
    assert_eq!(
        post(&ingest, term(1, 1), BATCH, good).await?.0,
        200,
        "and no term was admitted by the wrong ones"
    );
    Ok(())
}

#[tokio::test]
async fn under_pressure_it_says_when_to_come_back() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let url = stage.canonical.clone();
    let args = ["worker", "canonical-ingest", "--canonical-url", &url, "--max-requests", "1"];
    let ingest = Worker::start(&args).await?;
    // One request that never ends takes the one place there is.
    let slow = ingest.begun(100).await?;
    let body = json!([event(0, 1)]).to_string();
    let mut request = http_client(LIMIT)?.post(format!("http://{}/v1/events", ingest.address));
    for (name, value) in term_headers(&LeaseName::new("outbox-forwarder")?, term(1, 1).expect("some")) {
        request = request.header(name, value);
    }
    let answer = request.header("content-type", BATCH).body(body.clone()).send().await?;
    assert_eq!(answer.status(), 503, "it is busy");
    assert_eq!(answer.headers().get("retry-after").map(|value| value.as_bytes()), Some(&b"1"[..]));
    assert_eq!(ingest.get("/healthz").await?.0, 200, "probes are answered all the same");
    drop(slow);
    lease_testbed::wait_until("there is room again", LIMIT, || async {
        post(&ingest, term(1, 1), BATCH, body.clone()).await.is_ok_and(|(status, _)| status == 200)
    })
    .await
}

/// JSON can say what Postgres can't keep: asking again would never help.
#[tokio::test]
async fn postgres_an_event_that_can_never_be_stored_is_the_senders_fault() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let ingest = stage.ingest().await?;
    let mut never = event(1, 1);
    never["data"] = json!({ "a": "\0" });
    let (status, body) = post(&ingest, term(1, 1), BATCH, json!([event(0, 1), never]).to_string()).await?;
    assert_eq!((status, &body["code"]), (422, &json!("BAD_EVENT")), "{body}");
    assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 0, "all or none");
    Ok(())
}

/// However deep: it is never an outage, which the forwarder would wait for.
async fn what_no_store_can_keep_is_the_senders_fault(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let send = async |body: String| post(&ingest, term(1, 1), BATCH, body).await;
    let nested = |depth: usize| {
        let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        json!([event(1, 1), event(0, 1)]).to_string().replacen(r#"{"n":0}"#, &data, 1)
    };
    for depth in [501, 1_000, 20_000, 1_000_000] {
        let (status, body) = send(nested(depth)).await?;
        assert_eq!((status, &body["code"]), (422, &json!("BAD_EVENT")), "{depth}: {body}");
        let error = body["error"].as_str().unwrap_or_default();
        assert!(error.contains("acme/ledger-0/0") && error.contains("nested more than 500 deep"), "{body}");
    }
    let mut nameless = event(0, 1);
    nameless["id"] = json!("ac\0me/ledger-0/0");
    let (status, body) = send(json!([event(1, 1), nameless]).to_string()).await?;
    assert_eq!((status, &body["code"]), (422, &json!("BAD_EVENT")), "{body}");
    assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 0, "all or none");
    assert_eq!(send(nested(500)).await?.0, 200);
    assert_eq!(ingest.metric("spendguard_canonical_ingest_events_accepted_total").await?, 2.0);
    Ok(())
}

#[tokio::test]
async fn sqlite_what_no_store_can_keep_is_the_senders_fault() -> anyhow::Result<()> {
    what_no_store_can_keep_is_the_senders_fault(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_what_no_store_can_keep_is_the_senders_fault() -> anyhow::Result<()> {
    what_no_store_can_keep_is_the_senders_fault(Stage::postgres().await?).await
}

/// An answer says that the events are kept: the forwarder forgets them.
#[tokio::test]
async fn postgres_a_store_that_may_forget_what_it_acknowledged_is_refused() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let forgetful = format!("{}?options=-csynchronous_commit%3Doff", stage.canonical);
    let ingest = Worker::start(&["worker", "canonical-ingest", "--canonical-url", &forgetful]).await?;
    let (status, _) = post(&ingest, term(1, 1), BATCH, json!([event(0, 1)]).to_string()).await?;
    assert_eq!(status, 503);
    ingest.process.wait_for_line("set fsync = on and synchronous_commit = on", LIMIT).await?;
    assert_eq!(ingest.get("/readyz").await?.0, 503);
    Ok(())
}
