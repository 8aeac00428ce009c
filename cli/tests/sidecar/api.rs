//! The socket's API.

use serde_json::{Value, json};

use crate::stage::{LIMIT, Stage, field, leasehold, post, reservation};

#[tokio::test]
async fn a_reservation_is_made_and_settled_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let made = sidecar.reserve("r", 400).await?;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.body["fencing_epoch"], &made.body["state"]), (&json!(1), &json!("reserved")));
    let expires_at: jiff::Timestamp = made.body["expires_at"].as_str().expect("a time").parse()?;
    let left = expires_at.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((500..=600).contains(&left), "{left}");
    let again = sidecar.reserve("r", 400).await?;
    assert_eq!((again.status, &again.body), (201, &made.body), "a repetition gets the first answer");

    let id = made.body["reservation_id"].as_str().expect("an id").to_owned();
    let committed = sidecar.post(&format!("/v1/reservations/{id}/commit"), &Value::Null).await?;
    assert_eq!((committed.status, &committed.body["state"]), (200, &json!("committed")), "{committed:?}");
    let again = sidecar.post(&format!("/v1/reservations/{id}/commit"), &Value::Null).await?;
    assert_eq!((again.status, &again.body), (200, &committed.body));
    let wrong = sidecar.post(&format!("/v1/reservations/{id}/release"), &Value::Null).await?;
    assert_eq!((wrong.status, wrong.code()), (409, "RESERVATION_WRONG_STATE"), "{wrong:?}");

    let other = sidecar.reserve("s", 600).await?;
    let id = other.body["reservation_id"].as_str().expect("an id").to_owned();
    let over = sidecar.reserve("t", 1).await?;
    assert_eq!((over.status, over.code()), (409, "BUDGET_EXCEEDED"), "{over:?}");
    let key = json!({ "idempotency_key": "give back" });
    let released = sidecar.post(&format!("/v1/reservations/{id}/release"), &key).await?;
    assert_eq!((released.status, &released.body["state"]), (200, &json!("released")), "{released:?}");
    assert_eq!(sidecar.reserve("t", 1).await?.status, 201, "there is room again");
    assert_eq!(sidecar.metric("spendguard_sidecar_requests_total{code=\"201\"}").await?, 4.0);
    assert_eq!(sidecar.metric("spendguard_sidecar_requests_total{code=\"409\"}").await?, 2.0);
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox WHERE fencing_epoch = 1").await?, 5);
    Ok(())
}

#[tokio::test]
async fn says_what_is_wrong_with_a_request() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let with = |key: &str, value: Value| {
        let mut body = reservation("r", 5);
        body[key] = value;
        body
    };
    for (body, status, code) in [
        (with("amount_minor", json!(0)), 400, "INVALID_ARGUMENT"),
        (with("amount_minor", json!(-1)), 400, "INVALID_ARGUMENT"),
        (with("amount_minor", json!(1.5)), 400, "BAD_BODY"),
        (with("currency", json!("eur")), 400, "INVALID_ARGUMENT"),
        (with("ttl_seconds", json!(0)), 400, "INVALID_ARGUMENT"),
        (with("ttl_seconds", json!(86_401)), 400, "INVALID_ARGUMENT"),
        (with("idempotency_key", json!("")), 400, "INVALID_ARGUMENT"),
        (with("tenant", json!("evil")), 403, "TENANT_MISMATCH"),
        (with("currency", json!("USD")), 404, "BUDGET_UNKNOWN"),
        (with("amount", json!(5)), 400, "BAD_BODY"),
        (with("idempotency_key", json!("x".repeat(20_000))), 413, "BAD_BODY"),
        (Value::Null, 415, "BAD_TYPE"),
    ] {
        let refused = sidecar.post("/v1/reservations", &body).await?;
        assert_eq!((refused.status, refused.code()), (status, code), "{body}: {refused:?}");
        assert!(!refused.body["error"].as_str().unwrap_or_default().is_empty());
    }
    assert_eq!(sidecar.reserve("r", 5).await?.status, 201);
    let reused = sidecar.reserve("r", 6).await?;
    assert_eq!((reused.status, reused.code()), (422, "IDEMPOTENCY_KEY_REUSED"), "{reused:?}");
    let nobody = "/v1/reservations/00000000-0000-4000-8000-000000000000/commit";
    let unknown = sidecar.post(nobody, &Value::Null).await?;
    assert_eq!((unknown.status, unknown.code()), (404, "RESERVATION_UNKNOWN"), "{unknown:?}");
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 1);
    Ok(())
}

/// From the pod's header through the ledger into the outbox, and back in the answer.
#[tokio::test]
async fn a_request_keeps_its_id() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let made = post(&sidecar.socket, "/v1/reservations", &reservation("r", 5), Some("r-4711")).await?;
    assert_eq!((made.status, made.request_id.as_deref()), (201, Some("r-4711")));
    let payload = stage.text("SELECT payload::text FROM audit_outbox").await?.expect("a row");
    let payload: Value = serde_json::from_str(&payload)?;
    assert_eq!(payload["request_id"], "r-4711", "{payload}");
    let line = sidecar.process.wait_for_line("r-4711", LIMIT).await?;
    assert!(line.contains("reserve done") && line.ends_with("role=sidecar"), "{line}");
    for forged in ["a b", ""] {
        let made = post(&sidecar.socket, "/v1/reservations", &reservation("s", 5), Some(forged)).await?;
        let id = made.request_id.expect("an id of its own");
        assert_eq!(id.len(), 32, "{id}");
    }
    Ok(())
}

/// From the pod's header to the canonical event, past every process on the way, in all their lines.
#[tokio::test]
async fn a_request_is_followed_to_its_canonical_event() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let folder = tempfile::tempdir()?;
    let canonical = format!("sqlite:{}", folder.path().join("canonical.sqlite").display());
    let listen = ["--listen", "127.0.0.1:0"];
    let ingest = ["worker", "canonical-ingest", "--canonical-url", &canonical];
    let ingest = leasehold(&[&ingest[..], &listen].concat())?;
    let line = ingest.wait_for_line("canonical-ingest started", LIMIT).await?;
    let url = format!("http://{}/v1/events", field(&line, "address")?);
    let forwarder = ["worker", "outbox-forwarder", "--mode", "disabled", "--outbox-url", &stage.url];
    let forwarder = leasehold(&[&forwarder[..], &["--ingest-url", &url], &listen].concat())?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let made = post(&sidecar.socket, "/v1/reservations", &reservation("r", 5), Some("r-4711")).await?;
    assert_eq!(made.status, 201, "{made:?}");
    for (process, what) in [
        (&sidecar.process, "reserve done"),
        (&stage.ledger, "method=\"Reserve\" code=\"ok\""),
        (&forwarder, "forwarded"),
        (&ingest, "ingested"),
    ] {
        let line = process.wait_for_line("r-4711", LIMIT).await?;
        assert!(line.contains(what), "{line}");
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("canonical.sqlite"));
    let kept = sqlx::SqlitePool::connect_with(options).await?;
    let payload: String = sqlx::query_scalar("SELECT payload FROM canonical_events").fetch_one(&kept).await?;
    assert_eq!(serde_json::from_str::<Value>(&payload)?["request_id"], "r-4711", "{payload}");
    Ok(())
}
