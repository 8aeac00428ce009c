//! Malformed requests to canonical-ingest and to the pages of every role: each is refused with a status of the client's,
//! and the server goes on.

use std::time::Duration;

use lease_core::{Grant, LeaseName, Term};
use lease_spendguard::cloudevents::{BATCH, term_headers};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::Stage;

const SEED: u64 = 15;
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What is sent, and what the refusal must have.
struct Case {
    request: Vec<u8>,
    /// The field or header to blame; empty where there is none.
    names: &'static str,
}

type Headers = Vec<(&'static str, String)>;

fn headers() -> Headers {
    let term = Term { epoch: 1, grant: Grant(7) };
    let lease = LeaseName::new("outbox-forwarder").expect("valid");
    term_headers(&lease, term).into_iter().chain([("content-type", BATCH.to_owned())]).collect()
}

fn request(method: &str, path: &str, headers: &Headers, body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn event() -> Value {
    json!({
        "specversion": "1.0", "type": "com.spendguard.audit.v1", "source": "/test", "id": "acme/ledger-0/7",
        "time": "2026-01-02T03:04:05Z", "datacontenttype": "application/json", "fencingepoch": "1", "data": { "n": 7 }
    })
}

/// Those of events, of their batch and of the term.
fn of_events(random: &mut StdRng) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |request, names| cases.push(Case { request, names });
    let post = |body: &[u8]| request("POST", "/v1/events", &headers(), body);

    for (field, texts) in [
        ("specversion", &["", "2.0", "1"][..]),
        ("type", &["", "com.spendguard.audit.v2"]),
        ("source", &[]),
        ("id", &["", "a/b", "a/b/x", "/b/1", "a//1", "a/b/-1", "a/b/99999999999999999999"]),
        ("time", &["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-02", "1767323045"]),
        ("datacontenttype", &[]),
        ("fencingepoch", &["", "x", "1.5", "99999999999999999999"]),
    ] {
        let with = |value: Value| {
            let mut event = event();
            event[field] = value;
            json!([event]).to_string()
        };
        for value in [Value::Null, json!(true), json!(5), json!([]), json!({}), json!(1.5)] {
            add(post(with(value).as_bytes()), field);
        }
        for text in texts {
            // An event's own fields are named by its id, or by their own name.
            let names =
                if ["id", "specversion", "type", "fencingepoch"].contains(&field) { "event" } else { field };
            add(post(with(json!(text)).as_bytes()), names);
        }
        let mut missing = event();
        missing.as_object_mut().expect("an object").remove(field);
        add(post(json!([event(), missing]).to_string().as_bytes()), field);
        add(
            post(format!("[{{\"{field}\":{},{}]", event()[field], &event().to_string()[1..]).as_bytes()),
            field,
        );
    }
    let mut missing = event();
    missing.as_object_mut().expect("an object").remove("data");
    add(post(json!([missing]).to_string().as_bytes()), "data");

    for (name, values) in [
        ("leasehold-lease", &["", "Not A Name", "a_b", "-"][..]),
        ("leasehold-epoch", &["", "0", "-1", "1.5", "x", "4611686018427387905", "99999999999999999999999"]),
        (
            "leasehold-grant",
            &["", "x", "7", "0000000000000000000000000000000g", "000000000000000000000000000000007"],
        ),
        ("content-type", &["", "text/plain", "application/json", "application/cloudevents+json", "*/*"]),
    ] {
        let without: Headers = headers().into_iter().filter(|(other, _)| *other != name).collect();
        let body = json!([event()]).to_string();
        add(request("POST", "/v1/events", &without, body.as_bytes()), name);
        for value in values {
            let with = without.iter().cloned().chain([(name, (*value).to_owned())]).collect();
            add(request("POST", "/v1/events", &with, body.as_bytes()), name);
        }
    }

    let whole = json!([event(), event()]).to_string();
    for _ in 0..60 {
        add(post(&whole.as_bytes()[..random.random_range(1..whole.len())]), "");
        let length = random.random_range(1..300);
        add(post(&(0..length).map(|_| random.random()).collect::<Vec<u8>>()), "");
    }
    for body in [
        "",
        "{}",
        "5",
        "null",
        "\"x\"",
        "[5]",
        "[[]]",
        "[null]",
        &"[".repeat(10_000),
        &format!("{whole}{whole}"),
    ] {
        add(post(body.as_bytes()), "");
    }
    cases
}

/// Those that no page and no route wants.
fn of_pages(random: &mut StdRng) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |request, names| cases.push(Case { request, names });
    for page in ["/healthz", "/readyz", "/metrics"] {
        for method in ["POST", "PUT", "DELETE", "PATCH", "BREW", "CONNECT", "OPTIONS"] {
            add(request(method, page, &Vec::new(), b"x"), "");
        }
        for path in [
            format!("{page}/"),
            format!("{page}/x"),
            format!("/{page}"),
            format!("{page}%00"),
            page.to_uppercase(),
        ] {
            add(request("GET", &path, &Vec::new(), b""), "");
        }
        let header = format!("GET {page} HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
        add(header.into_bytes(), "");
        add(format!("GET {page}?{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(1 << 17)).into_bytes(), "");
    }
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        add(request(method, "/v1/events", &headers(), b""), "");
    }
    for line in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /healthz\r\n\r\n",
        "GET /healthz HTTP/9.9\r\n\r\n",
        "\0\0\0\r\n\r\n",
        "GET  HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nho st: x\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: x\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n",
    ] {
        add(line.as_bytes().to_vec(), "");
    }
    for _ in 0..60 {
        let length = random.random_range(1..300);
        add((0..length).map(|_| random.random::<u8>()).chain(*b"\r\n\r\n").collect(), "");
    }
    cases
}

/// The answer, or nothing if the connection was closed without one.
async fn answer(address: &str, request: &[u8]) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
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
async fn every_malformed_request_is_refused_by_its_fields_name_and_the_ingest_goes_on() -> anyhow::Result<()>
{
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let mut random = StdRng::seed_from_u64(SEED);
    let (events, pages) = (of_events(&mut random), of_pages(&mut random));
    let mut wrong = Vec::new();
    for case in events.iter().chain(&pages) {
        let told = answer(&ingest.address, &case.request).await?;
        let status = told.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        let refused =
            status.is_none_or(|status| (400..500).contains(&status) || [501, 505].contains(&status));
        let named = case.names.is_empty() || told.contains(case.names);
        if !refused || !named || (status.is_none() && !told.is_empty()) {
            let sent = String::from_utf8_lossy(&case.request[..case.request.len().min(600)]).into_owned();
            wrong.push(format!("{sent:?} → {told:?}"));
        }
    }
    println!("malformed requests: {} of events, {} of pages", events.len(), pages.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), events.len() + pages.len(), wrong.join("\n"));
    assert!(events.len() >= 200 && pages.len() >= 100, "only {} and {}", events.len(), pages.len());
    let proper = request("POST", "/v1/events", &headers(), json!([event()]).to_string().as_bytes());
    assert!(answer(&ingest.address, &proper).await?.starts_with("HTTP/1.1 200"), "it goes on");
    assert_eq!(
        stage.canonical_int("SELECT count(*) FROM canonical_events").await?,
        1,
        "nothing else was kept"
    );
    let lines = ingest.process.lines();
    assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
    Ok(())
}
