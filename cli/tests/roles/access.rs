//! Who may send events to canonical-ingest: tokens and certificates, bound to tenants and leases.

use std::path::Path;

use lease_core::{Grant, LeaseName, Term};
use lease_spendguard::cloudevents::{BATCH, term_headers};
use lease_testbed::{Certificates, Process, field};
use lease_worker_common::http_client;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stage::{LIMIT, Stage, Worker};

const TOKEN: &str = "forwarder-token-0123456789abcdef01";

fn callers(token: &str) -> String {
    let hash: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[forwarder]\ntokenSha256 = ['{hash}']\nmay = ['forward']\ntenants = ['acme']\nleases = ['outbox-forwarder']\n\
         [by-certificate]\ncertificateNames = ['forwarder']\nmay = ['forward']\ntenants = ['*']\n"
    )
}

async fn ingest(stage: &Stage, file: &Path, more: &[&str]) -> anyhow::Result<Worker> {
    let file = file.display().to_string();
    let args =
        ["worker", "canonical-ingest", "--canonical-url", &stage.canonical, "--ingest-access-file", &file];
    Worker::start(&[&args[..], more].concat()).await
}

async fn post(to: &Worker, token: Option<&str>, lease: &str, tenant: &str) -> anyhow::Result<(u16, Value)> {
    let event = json!([{
        "specversion": "1.0", "type": "com.spendguard.audit.v1", "source": "/test",
        "id": format!("{tenant}/ledger-0/0"), "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/json", "fencingepoch": "1", "data": {}
    }]);
    let mut request = http_client(LIMIT)?.post(format!("http://{}/v1/events", to.address));
    for (name, value) in term_headers(&LeaseName::new(lease)?, Term { epoch: 1, grant: Grant(1) }) {
        request = request.header(name, value);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let reply = request.header("content-type", BATCH).body(event.to_string()).send().await?;
    Ok((reply.status().as_u16(), reply.json().await?))
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn only_a_known_forwarder_sends_and_only_what_it_may() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::sqlite().await?, tempfile::tempdir()?);
    let file = folder.path().join("access.toml");
    std::fs::write(&file, callers(TOKEN))?;
    let ingest = ingest(&stage, &file, &[]).await?;
    for unknown in [None, Some("forwarder-token-0123456789abcdef02"), Some("")] {
        let (status, body) = post(&ingest, unknown, "outbox-forwarder", "acme").await?;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHENTICATED")), "{unknown:?}");
    }
    for (lease, tenant, code) in
        [("another", "acme", "LEASE_NOT_ALLOWED"), ("outbox-forwarder", "other", "TENANT_NOT_ALLOWED")]
    {
        let (status, body) = post(&ingest, Some(TOKEN), lease, tenant).await?;
        assert_eq!((status, &body["code"]), (403, &json!(code)), "{lease} {tenant}");
    }
    assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 0);
    for (reason, count) in [("unauthenticated", 3.0), ("forbidden", 2.0)] {
        let metric = format!("spendguard_canonical_ingest_callers_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(ingest.metric(&metric).await?, count, "{reason}");
    }
    let line = ingest.process.wait_for_line("an unknown caller was refused", LIMIT).await?;
    assert!(line.contains("neither a token nor a certificate"), "{line}");
    let line = ingest.process.wait_for_line(" a caller was refused", LIMIT).await?;
    assert!(line.contains("caller forwarder may not"), "{line}");
    assert_eq!(post(&ingest, Some(TOKEN), "outbox-forwarder", "acme").await?.0, 200);
    for page in ["/healthz", "/readyz", "/metrics"] {
        let (status, text) = ingest.get(page).await?;
        assert!(status == 200 && !text.contains(TOKEN), "{page}");
    }
    Ok(())
}

#[tokio::test]
async fn a_forwarder_shows_the_token_that_its_file_holds_by_then() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::sqlite().await?, tempfile::tempdir()?);
    let (file, token) = (folder.path().join("access.toml"), folder.path().join("token"));
    std::fs::write(&file, callers(TOKEN))?;
    std::fs::write(&token, "the-former-token-0123456789abcdef\n")?;
    let ingest = ingest(&stage, &file, &[]).await?;
    let shown = ["--ingest-token-file", &token.display().to_string()];
    let forwarder = stage.forwarder_with("a", &ingest.address, &stage.outbox, &shown).await?;
    stage.append(0, 10).await?;
    // It waits, and blames no row.
    let line = forwarder.process.wait_for_line("401 Unauthorized", LIMIT).await?;
    assert!(!line.contains("former-token"), "{line}");
    let skipped = "spendguard_outbox_forwarder_skip_total{reason=\"ingest_unavailable\"}";
    assert!(forwarder.metric(skipped).await? >= 1.0);
    std::fs::write(&token, format!("{TOKEN}\n"))?;
    stage.all_arrived(10).await
}

#[tokio::test]
async fn a_forwarder_shows_its_certificate_and_the_pages_need_none() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::sqlite().await?, tempfile::tempdir()?);
    let certificates = Certificates::make(folder.path())?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("access.toml"), callers(TOKEN))?;
    let (cert, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let tls =
        ["--ingest-tls-cert-file", &cert, "--ingest-tls-key-file", &key, "--ingest-tls-client-ca-file", &ca];
    let ingest = ingest(&stage, path("access.toml").as_ref(), &tls).await?;
    let at = format!("https://{}", ingest.address);
    // Chooses rustls' provider.
    let _ = http_client(LIMIT)?;
    let root = reqwest::Certificate::from_pem(&std::fs::read(&ca)?)?;
    let nobody = reqwest::Client::builder().tls_certs_only([root]).timeout(LIMIT).build()?;
    assert_eq!(nobody.get(format!("{at}/readyz")).send().await?.status().as_u16(), 200);
    assert_eq!(nobody.post(format!("{at}/v1/events")).send().await?.status().as_u16(), 401);
    assert!(ingest.get("/readyz").await.is_err(), "no plain text beside it");

    let forwarder = |name: &str| -> anyhow::Result<Vec<String>> {
        let (cert, key) = certificates.client(name)?;
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let url = format!("{at}/v1/events");
        let flags =
            ["--ingest-url", &url, "--ingest-ca-file", &ca, "--ingest-cert-file", &cert, "--ingest-key-file"];
        Ok([&flags[..], &[&key]].concat().into_iter().map(str::to_owned).collect())
    };
    stage.append(0, 10).await?;
    let stranger = stage.forwarder_with("b", "", &stage.outbox, &words(&forwarder("stranger")?)).await?;
    stranger.process.wait_for_line("401 Unauthorized", LIMIT).await?;
    stranger.process.kill().await?;
    let known = stage.forwarder_with("a", "", &stage.outbox, &words(&forwarder("forwarder")?)).await?;
    known.process.wait_for_line("leading", LIMIT).await?;
    stage.all_arrived(10).await
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_the_start() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::sqlite().await?, tempfile::tempdir()?);
    let short = folder.path().join("token");
    std::fs::write(&short, "hunter2")?;
    let short = short.display().to_string();
    let ingest = ["worker", "canonical-ingest", "--canonical-url", &stage.canonical];
    let forwarder = ["worker", "outbox-forwarder", "--mode", "disabled", "--outbox-url", &stage.outbox];
    let forwarder = [&forwarder[..], &["--ingest-url", "http://127.0.0.1:1/v1/events"]].concat();
    for (role, more, said) in [
        (&ingest[..], &["--listen", "0.0.0.0:0"][..], "canonicalIngest.listenWithoutAuthentication"),
        (&ingest[..], &["--listen", "[::]:0"], "canonicalIngest.accessFile"),
        (&ingest[..], &["--ingest-access-file", "/no/such"], "--ingest-access-file = \"/no/such\""),
        (&ingest[..], &["--ingest-access-file", &short], "--ingest-access-file"),
        (&ingest[..], &["--ingest-tls-cert-file", &short], "TLS needs the certificate's key"),
        (&forwarder[..], &["--ingest-token-file", &short], "32 to 4096 visible characters"),
        (&forwarder[..], &["--ingest-ca-file", &short], "canonical-ingest is not at https"),
    ] {
        let process =
            Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(role).args(more).spawn()?;
        assert_eq!(process.wait(LIMIT).await?.code(), Some(2), "{more:?}: {:?}", process.lines());
        let line = process.wait_for_line("error: ", LIMIT).await?;
        assert!(line.contains(said) && !line.contains("hunter2"), "{line}");
    }
    let open =
        [&ingest[..], &["--listen", "0.0.0.0:0", "--ingest-listen-without-authentication", "true"]].concat();
    let open = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(open).spawn()?;
    let line = open.wait_for_line("canonical-ingest started", LIMIT).await?;
    assert!(field(&line, "address")?.starts_with("0.0.0.0:"));
    open.wait_for_line("anybody who reaches this address", LIMIT).await.map(drop)
}
