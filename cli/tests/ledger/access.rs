//! Who may do what at the ledger: tokens and certificates, each bound to tenants, scopes and rights.

use std::path::Path;

use anyhow::Context;
use lease_spendguard::rpc::ledger::v1::{self, ledger_client::LedgerClient};
use lease_testbed::{Certificates, Process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::stage::{LIMIT, Ledger, Stage, TENANT, attempt, fence, reserve};

const SIDECAR: &str = "sidecar-token-0123456789abcdef0123";
const OPERATOR: &str = "operator-token-0123456789abcdef012";

fn hash(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn by_token(sidecar: &str) -> String {
    format!(
        "[sidecars]\ntokenSha256 = ['{}']\nmay = ['sidecar']\ntenants = ['acme']\nscopes = ['payments', 'payments/*']\n\
         [on-call]\ntokenSha256 = ['{}']\nmay = ['operate']\ntenants = ['*']\n",
        hash(sidecar),
        hash(OPERATOR)
    )
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = MetadataValue::try_from(format!("Bearer {token}")).expect("ascii");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

type Answer = Result<v1::acquire_fencing_lease_response::Outcome, Code>;

async fn acquire(
    client: &LedgerClient<Channel>,
    token: &str,
    asked: v1::AcquireFencingLeaseRequest,
) -> anyhow::Result<Answer> {
    match client.clone().acquire_fencing_lease(with(token, asked)).await {
        Ok(answer) => Ok(Ok(answer.into_inner().outcome.context("no outcome")?)),
        Err(status) => Ok(Err(status.code())),
    }
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn secured(stage: &Stage, file: &Path, more: &[&str]) -> anyhow::Result<Ledger> {
    let path = file.display().to_string();
    stage.ledger_with(&[&["--ledger-access-file", &path][..], more].concat()).await
}

#[tokio::test]
async fn a_token_is_bound_to_its_tenant_its_scope_and_its_right() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::new().await?, tempfile::tempdir()?);
    let file = folder.path().join("access.toml");
    std::fs::write(&file, by_token(SIDECAR))?;
    let ledger = secured(&stage, &file, &[]).await?;
    let mut client = ledger.client().await?;

    for unknown in ["", "sidecar-token-0123456789abcdef0124"] {
        assert_eq!(acquire(&client, unknown, attempt("a")).await?, Err(Code::Unauthenticated));
    }
    let Ok(v1::acquire_fencing_lease_response::Outcome::Success(term)) =
        acquire(&client, SIDECAR, attempt("a")).await?
    else {
        anyhow::bail!("not acquired");
    };
    let reservation = reserve(&fence("a", &term), "k", 1);
    assert_eq!(code(client.reserve(with(SIDECAR, reservation.clone())).await), Code::Ok);
    assert_eq!(code(client.reserve(with(OPERATOR, reservation.clone())).await), Code::PermissionDenied);
    assert_eq!(code(client.reserve(with("", reservation)).await), Code::Unauthenticated);
    for elsewhere in [
        v1::AcquireFencingLeaseRequest { tenant_id: "other".into(), ..attempt("a") },
        v1::AcquireFencingLeaseRequest { fencing_scope_id: "refunds".into(), ..attempt("a") },
        v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") },
    ] {
        assert_eq!(acquire(&client, SIDECAR, elsewhere).await?, Err(Code::PermissionDenied));
    }
    for change in ["revoke", "seal", "restore", "init", "request", "nonsense"] {
        let put = v1::PutFencingScopeRequest {
            fencing_scope_id: "payments".into(),
            tenant_id: TENANT.into(),
            change: change.into(),
            expected_tag: vec![7; 16],
            ..Default::default()
        };
        assert_eq!(
            code(client.put_fencing_scope(with(SIDECAR, put)).await),
            Code::PermissionDenied,
            "{change}"
        );
    }
    let look =
        v1::ObserveFencingScopeRequest { fencing_scope_id: "payments".into(), tenant_id: "other".into() };
    assert_eq!(code(client.observe_fencing_scope(with(SIDECAR, look)).await), Code::PermissionDenied);
    let revocation = v1::RevokeFencingLeaseRequest {
        fencing_scope_id: "payments".into(),
        tenant_id: TENANT.into(),
        by: "a test".into(),
    };
    assert_eq!(
        code(client.revoke_fencing_lease(with(SIDECAR, revocation.clone())).await),
        Code::PermissionDenied
    );
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events WHERE action = 'revoke'").await?, 0);
    for (reason, count) in [("unauthenticated", 3.0), ("forbidden", 12.0)] {
        let metric = format!("spendguard_ledger_callers_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(ledger.metric(&metric).await?, count, "{reason}");
    }
    assert_eq!(code(client.revoke_fencing_lease(with(OPERATOR, revocation)).await), Code::Ok);
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") };
    assert!(acquire(&client, OPERATOR, force).await?.is_ok());

    let mut health =
        HealthClient::new(Channel::from_shared(format!("http://{}", ledger.grpc))?.connect().await?);
    assert_eq!(code(health.check(HealthCheckRequest { service: String::new() }).await), Code::Ok);
    for line in ledger.process.lines() {
        assert!(!line.contains(SIDECAR) && !line.contains(&hash(SIDECAR)), "{line}");
    }
    Ok(())
}

/// What it writes has to be what the change's name says: neither a term without an event, nor a scope that is shut for
/// good or whose numbers are used up.
#[tokio::test]
async fn a_sidecars_write_of_a_scope_changes_what_a_sidecar_may() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::new().await?, tempfile::tempdir()?);
    let file = folder.path().join("access.toml");
    std::fs::write(&file, by_token(SIDECAR))?;
    let ledger = secured(&stage, &file, &[]).await?;
    let client = ledger.client().await?;
    assert!(acquire(&client, SIDECAR, attempt("a")).await?.is_ok());
    let look =
        || v1::ObserveFencingScopeRequest { fencing_scope_id: "payments".into(), tenant_id: TENANT.into() };
    let seen = async || -> anyhow::Result<Value> {
        let answer = client.clone().observe_fencing_scope(with(SIDECAR, look())).await?.into_inner();
        match answer.outcome {
            Some(v1::observe_fencing_scope_response::Outcome::Scope(scope)) => {
                Ok(serde_json::from_str(&scope.record)?)
            }
            other => anyhow::bail!("{other:?}"),
        }
    };
    let put = async |token: &str,
                     change: &str,
                     with_fields: Value|
           -> anyhow::Result<v1::put_fencing_scope_response::Outcome> {
        let mut record = seen().await?;
        let tag = u128::from_str_radix(record["tag"].as_str().context("a tag")?, 16)?;
        record["tag"] = json!(format!("{:032x}", tag ^ 1));
        for (field, value) in with_fields.as_object().context("fields")? {
            record[field] = value.clone();
        }
        let message = v1::PutFencingScopeRequest {
            fencing_scope_id: "payments".into(),
            tenant_id: TENANT.into(),
            expected_tag: tag.to_be_bytes().to_vec(),
            record: record.to_string(),
            change: change.into(),
        };
        let answer = client.clone().put_fencing_scope(with(token, message)).await?;
        answer.into_inner().outcome.context("no outcome")
    };
    let before = seen().await?;
    let (other, epoch) = ("0123456789abcdef0123456789abcdef", before["epoch"].as_u64().context("an epoch")?);
    for (change, fields) in [
        ("renew", json!({ "grant": other, "holder": "b" })),
        ("renew", json!({ "sealed": "moved" })),
        ("renew", json!({ "epochs_above": 1u64 << 60 })),
        ("release", json!({ "grant": null, "sealed": "moved" })),
        ("release", json!({ "grant": null, "epoch": epoch + 1 })),
        (
            "release",
            json!({ "grant": null, "revoked": { "epoch": epoch, "except": "a", "for_ms": 86_400_000 } }),
        ),
        ("acquire", json!({ "grant": other, "epoch": epoch + (1 << 30) })),
        ("acquire", json!({ "grant": null, "epoch": epoch + 1 })),
    ] {
        let answer = put(SIDECAR, change, fields.clone()).await?;
        let v1::put_fencing_scope_response::Outcome::Error(error) = &answer else {
            anyhow::bail!("{change} {fields}: {answer:?}");
        };
        assert_eq!(error.code, "NOT_ALLOWED", "{change} {fields}");
    }
    assert_eq!(seen().await?, before);
    let written = |outcome| matches!(outcome, v1::put_fencing_scope_response::Outcome::Written(_));
    assert!(written(put(SIDECAR, "renew", json!({ "beat": 1 })).await?));
    assert!(written(put(SIDECAR, "release", json!({ "grant": null, "beat": 2 })).await?));
    assert!(written(put(SIDECAR, "acquire", json!({ "grant": other, "epoch": epoch + 1 })).await?));
    Ok(())
}

#[tokio::test]
async fn tokens_are_read_again_when_their_file_changes() -> anyhow::Result<()> {
    let (stage, folder) = (Stage::new().await?, tempfile::tempdir()?);
    // As Kubernetes shows a Secret: the link is swapped, and the file is another.
    let (link, file) = (folder.path().join("now"), folder.path().join("now/access.toml"));
    let publish = |name: &str, text: &str| -> anyhow::Result<()> {
        let (version, new) = (folder.path().join(name), folder.path().join("new"));
        std::fs::create_dir(&version)?;
        std::fs::write(version.join("access.toml"), text)?;
        std::os::unix::fs::symlink(&version, &new)?;
        Ok(std::fs::rename(&new, &link)?)
    };
    publish("1", &by_token("the-former-token-0123456789abcdef"))?;
    let ledger = secured(&stage, &file, &[]).await?;
    let client = ledger.client().await?;
    assert_eq!(acquire(&client, SIDECAR, attempt("a")).await?, Err(Code::Unauthenticated));
    publish("2", "[sidecars]\ntokenSha256 = ['hunter2']\nmay = ['sidecar']\ntenants = ['*']\n")?;
    let line = ledger.process.wait_for_line("a changed file can't be used", LIMIT).await?;
    assert!(line.contains("sha256sum") && !line.contains("hunter2"), "{line}");
    publish("3", &by_token(SIDECAR))?;
    ledger.process.wait_for_line("reloaded what=", LIMIT).await?;
    assert!(acquire(&client, SIDECAR, attempt("a")).await?.is_ok());
    assert_eq!(
        acquire(&client, "the-former-token-0123456789abcdef", attempt("a")).await?,
        Err(Code::Unauthenticated)
    );
    Ok(())
}

#[tokio::test]
async fn a_certificates_name_is_bound_to_rights_and_certificates_are_read_again() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (stage, folder) = (Stage::new().await?, tempfile::tempdir()?);
    let certificates = Certificates::make(folder.path())?;
    let file = |name: &str| folder.path().join(name);
    std::fs::write(
        file("access.toml"),
        "[sidecars]\ncertificateNames = ['sidecar']\nmay = ['sidecar']\ntenants = ['acme']\n\
         [on-call]\ncertificateNames = ['pager', 'sidecar-of-old']\nmay = ['operate']\ntenants = ['acme']\n",
    )?;
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let path = |file: &Path| file.display().to_string();
    let (cert, key, ca) = (path(&cert), path(&key), path(&ca));
    let tls = [
        ["--ledger-tls-cert-file", &cert],
        ["--ledger-tls-key-file", &key],
        ["--ledger-tls-client-ca-file", &ca],
    ];
    let ledger = secured(&stage, &file("access.toml"), &tls.concat()).await?;
    let connect = async |certificates: &Certificates, name: &str| -> anyhow::Result<LedgerClient<Channel>> {
        let (cert, key) = certificates.client(name)?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(std::fs::read(certificates.ca_file())?))
            .identity(Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?));
        let at = format!("https://localhost:{}", ledger.grpc.rsplit_once(':').context("a port")?.1);
        Ok(LedgerClient::new(Channel::from_shared(at)?.tls_config(tls)?.connect().await?))
    };
    let sidecar = connect(&certificates, "sidecar").await?;
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") };
    assert!(acquire(&sidecar, "", attempt("a")).await?.is_ok());
    assert_eq!(acquire(&sidecar, "", force.clone()).await?, Err(Code::PermissionDenied));
    assert_eq!(
        acquire(&sidecar, "some-token-that-nobody-knows-of-here", attempt("a")).await?,
        Err(Code::Unauthenticated),
        "a wrong token is not outweighed by a certificate"
    );
    assert_eq!(
        acquire(&connect(&certificates, "stranger").await?, "", attempt("a")).await?,
        Err(Code::Unauthenticated)
    );
    assert!(acquire(&connect(&certificates, "pager").await?, "", force).await?.is_ok());

    // Another authority signs all certificates from now on.
    let renewed = Certificates::make(folder.path())?;
    ledger.process.wait_for_line("reloaded what=", LIMIT).await?;
    lease_testbed::wait_until("the new certificates are in use", LIMIT, async || {
        connect(&renewed, "sidecar").await.is_ok()
    })
    .await?;
    let sidecar = connect(&renewed, "sidecar").await?;
    let other = v1::AcquireFencingLeaseRequest { fencing_scope_id: "payments/n".into(), ..attempt("c") };
    assert!(acquire(&sidecar, "", other).await?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_ledger_that_others_reach_must_know_its_callers() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let start = |more: &[&str]| {
        let args = ["worker", "ledger", "--ledger-db-url", &stage.url, "--listen", "127.0.0.1:0"];
        let args = [&args[..], &["--grpc-listen", "0.0.0.0:0"], more].concat();
        Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args).spawn()
    };
    let refused = start(&[])?;
    assert_eq!(refused.wait(LIMIT).await?.code(), Some(2));
    let line = refused.wait_for_line("error: ", LIMIT).await?;
    for said in ["--grpc-listen = \"0.0.0.0:0\"", "ledger.accessFile", "ledger.listenWithoutAuthentication"] {
        assert!(line.contains(said), "{line}");
    }
    let open = start(&["--ledger-listen-without-authentication", "true"])?;
    let line = open.wait_for_line("ledger started", LIMIT).await?;
    let port = crate::stage::field(&line, "grpc")?.rsplit_once(':').context("a port")?.1.to_owned();
    let client = LedgerClient::connect(format!("http://127.0.0.1:{port}")).await?;
    assert!(acquire(&client, "", attempt("a")).await?.is_ok());
    let force = v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") };
    assert_eq!(acquire(&client, "", force).await?, Err(Code::PermissionDenied), "nobody is an operator");
    Ok(())
}
