//! Malformed requests of pods: each is refused with a status of the client's, a code and the field's name.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::stage::{Stage, reservation};

const SEED: u64 = 15;
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What is sent, and what the refusal must have.
struct Case {
    request: Vec<u8>,
    /// The field to blame; empty where there is none.
    names: &'static str,
}

fn request(method: &str, path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const RESERVATIONS: &str = "/v1/reservations";
const JSON: &str = "application/json";

fn cases() -> Vec<Case> {
    let mut random = StdRng::seed_from_u64(SEED);
    let mut cases = Vec::new();
    let mut add = |request, names| cases.push(Case { request, names });
    let post = |body: &Value| request("POST", RESERVATIONS, JSON, body.to_string().as_bytes());

    for field in ["tenant", "amount_minor", "currency", "ttl_seconds", "idempotency_key"] {
        let with = |value: Value| {
            let mut body = reservation("malformed", 5);
            body[field] = value;
            body
        };
        for value in [
            Value::Null,
            json!(true),
            json!([]),
            json!({}),
            json!([1]),
            json!({ "a": 1 }),
            json!(1.5),
            json!(1e300),
        ] {
            add(post(&with(value)), field);
        }
        let (texts, numbers): (&[&str], &[i64]) = match field {
            "currency" => (&["", "eur", "EURO", "€", "E R"], &[0, 5]),
            "idempotency_key" => (&["", "a\nb", "a\0b", "\u{1b}[2J"], &[0, 5]),
            "tenant" => (&["", "evil", "a\0b"], &[0, 5]),
            "amount_minor" => (&["", "5", "x"], &[0, -1, i64::MIN]),
            _ => (&["", "600", "x"], &[0, -1, 86_401, i64::MAX]),
        };
        for text in texts {
            add(post(&with(json!(text))), field);
        }
        for number in numbers {
            add(post(&with(json!(number))), field);
        }
        let mut missing = reservation("malformed", 5);
        missing.as_object_mut().expect("an object").remove(field);
        add(post(&missing), field);
        let twice = reservation("malformed", 5).to_string().replacen(
            '{',
            &format!("{{\"{field}\":{},", json!(reservation("malformed", 5)[field])),
            1,
        );
        add(request("POST", RESERVATIONS, JSON, twice.as_bytes()), field);
    }
    let mut unknown = reservation("malformed", 5);
    unknown["amount"] = json!(5);
    add(post(&unknown), "amount");

    let whole = reservation("malformed", 5).to_string();
    for _ in 0..40 {
        add(
            request("POST", RESERVATIONS, JSON, &whole.as_bytes()[..random.random_range(1..whole.len())]),
            "",
        );
        let length = random.random_range(1..300);
        let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
        add(request("POST", RESERVATIONS, JSON, &noise), "");
        add(request("POST", &format!("{RESERVATIONS}/x/commit"), JSON, &noise), "");
    }
    for body in
        ["[".repeat(10_000), "{\"tenant\":".repeat(1_000), format!("{whole}{whole}"), format!("{whole},")]
    {
        add(request("POST", RESERVATIONS, JSON, body.as_bytes()), "");
    }
    add(request("POST", RESERVATIONS, JSON, &vec![b' '; 20_000]), "");
    for content_type in ["", "text/plain", "application/xml", "application/jsonx", "multipart/form-data"] {
        add(request("POST", RESERVATIONS, content_type, whole.as_bytes()), "application/json");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"] {
        add(request(method, RESERVATIONS, JSON, b""), "");
    }
    for path in [
        "/",
        "/v1",
        "/v1/reservations/",
        "/v1/reservations/x",
        "/v2/reservations",
        "/v1/reservations/x/spend",
        "/%00",
        "/v1/reservations/x/commit/y",
        "//v1/reservations",
    ] {
        add(request("POST", path, JSON, whole.as_bytes()), "");
    }
    for id in ["x", "%00", "%ff", "..", "a%0ab", "00000000-0000-4000-8000-00000000000g", &"x".repeat(300)] {
        for what in ["commit", "release"] {
            add(request("POST", &format!("{RESERVATIONS}/{id}/{what}"), JSON, b""), "");
        }
    }
    for body in [
        "[]",
        "5",
        "\"x\"",
        "{\"idempotency_key\":5}",
        "{\"idempotency_key\":\"\"}",
        "{\"idempotency_key\":\"a\\nb\"}",
    ] {
        let names = if body.contains("key") { "idempotency_key" } else { "" };
        add(
            request(
                "POST",
                &format!("{RESERVATIONS}/00000000-0000-4000-8000-000000000000/commit"),
                JSON,
                body.as_bytes(),
            ),
            names,
        );
    }
    for line in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "POST / HTTP/9.9\r\n\r\n",
        "POST /v1/reservations HTTP/1.1\r\n\r\n",
        "\0\0\0\r\n\r\n",
        "GET http:// HTTP/1.1\r\n\r\n",
        "POST /v1/reservations HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/reservations HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "POST /v1/reservations HTTP/1.1\r\nho st: x\r\n\r\n",
    ] {
        add(line.as_bytes().to_vec(), "");
    }
    for _ in 0..30 {
        let length = random.random_range(1..300);
        let noise = (0..length).map(|_| random.random::<u8>()).chain(*b"\r\n\r\n");
        add(noise.collect(), "");
    }
    cases
}

/// The answer, or nothing if the connection was closed without one.
async fn answer(socket: &std::path::Path, request: &[u8]) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        // Whoever is refused early may find the connection closed.
        let _ = stream.write_all(request).await;
        // A request that asks for the end itself is answered first; noise is never complete.
        if !request.windows(17).any(|part| part == b"connection: close") {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(ANSWER_LIMIT, exchange).await?
}

#[tokio::test]
async fn every_malformed_request_of_a_pod_is_refused_by_its_fields_name_and_the_sidecar_goes_on()
-> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 30, &[]).await?;
    let (cases, mut wrong) = (cases(), Vec::new());
    for case in &cases {
        let told = answer(&sidecar.socket, &case.request).await?;
        let status = told.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        let refused = status.is_none_or(|status| (400..500).contains(&status) || status == 505);
        let named = case.names.is_empty() || told.contains(case.names);
        if !refused || !named || (status.is_none() && !told.is_empty()) {
            wrong.push(format!("{:?} → {told:?}", String::from_utf8_lossy(&case.request)));
        }
    }
    println!("malformed requests of pods: {}", cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 250, "only {}", cases.len());
    assert_eq!(sidecar.reserve("afterwards", 5).await?.status, 201, "it goes on");
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 1, "nothing else was written");
    let lines = [sidecar.process.lines(), stage.ledger.lines()].concat();
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
    Ok(())
}
