//! TLS, and clients with certificates of their own; settings that can't be used.

use lease_spendguard::rpc::ledger::v1::AcquireFencingLeaseRequest;
use lease_spendguard::rpc::ledger::v1::ledger_client::LedgerClient;
use lease_testbed::{Certificates, Process};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::stage::{LIMIT, Ledger, Stage, attempt, won};

async fn connect(ledger: &Ledger, tls: ClientTlsConfig) -> anyhow::Result<LedgerClient<Channel>> {
    let url = format!("https://{}", ledger.grpc);
    Ok(LedgerClient::new(Channel::from_shared(url)?.tls_config(tls)?.connect().await?))
}

#[tokio::test]
async fn speaks_tls_and_asks_clients_for_certificates_when_told_to() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stage = Stage::new().await?;
    let (folder, strangers) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let ours = Certificates::make(folder.path())?;
    let others = Certificates::make(strangers.path())?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let server = ["--ledger-tls-cert-file", &cert, "--ledger-tls-key-file", &key];
    let trusting = |certificates: &Certificates| -> anyhow::Result<ClientTlsConfig> {
        let pem = std::fs::read(certificates.ca_file())?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost"))
    };
    let identity = |certificates: &Certificates| -> anyhow::Result<Identity> {
        let (cert, key) = certificates.client("sidecar")?;
        Ok(Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?))
    };

    let plain = stage.ledger_with(&server).await?;
    let client = connect(&plain, trusting(&ours)?).await?;
    let term = won(&client, attempt("a")).await?;
    let grant = term.grant.clone();
    assert_eq!(term.epoch, 1);
    assert!(connect(&plain, trusting(&others)?).await.is_err(), "the client checks the server");
    assert!(works(plain.client().await).await.is_err(), "no plain text beside it");

    let mutual = stage.ledger_with(&[&server[..], &["--ledger-tls-client-ca-file", &ca]].concat()).await?;
    let client = connect(&mutual, trusting(&ours)?.identity(identity(&ours)?)).await?;
    let again = AcquireFencingLeaseRequest { grant, ..attempt("a") };
    assert_eq!(won(&client, again).await?.epoch, 1);
    // A certificate of the authority is no operator's by itself.
    let forced = won(&client, AcquireFencingLeaseRequest { force: true, ..attempt("b") });
    assert!(forced.await.is_err_and(|refused| refused.to_string().contains("may not operate")));
    // The refusal comes with the first answer that the client reads.
    assert!(works(connect(&mutual, trusting(&ours)?).await).await.is_err(), "no certificate");
    let stranger = trusting(&ours)?.identity(identity(&others)?);
    assert!(works(connect(&mutual, stranger).await).await.is_err(), "a stranger's certificate");
    Ok(())
}

async fn works(client: anyhow::Result<LedgerClient<Channel>>) -> anyhow::Result<()> {
    won(&client?, attempt("x")).await.map(drop)
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_the_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ours = Certificates::make(folder.path())?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (other_cert, _) = ours.client("other")?;
    std::fs::write(folder.path().join("empty"), "")?;
    let (cert, key, other, empty) =
        (file("server.crt"), file("server.key"), other_cert.display().to_string(), file("empty"));
    let url = "postgres://me:hunter2@127.0.0.1:1/ledger";
    for (args, said) in [
        (vec![], "ledger.databaseUrl is not set"),
        (vec!["--ledger-db-url", "sqlite:/x"], "use postgres://"),
        (vec!["--ledger-db-url", url, "--ledger-tls-cert-file", &cert], "TLS needs the certificate's key"),
        (vec!["--ledger-db-url", url, "--ledger-tls-key-file", &key], "TLS needs the server's certificate"),
        (
            vec!["--ledger-db-url", url, "--ledger-tls-client-ca-file", &cert],
            "TLS needs the server's certificate",
        ),
        (
            vec!["--ledger-db-url", url, "--ledger-tls-cert-file", &empty, "--ledger-tls-key-file", &key],
            "it holds no certificate",
        ),
        (
            vec!["--ledger-db-url", url, "--ledger-tls-cert-file", &other, "--ledger-tls-key-file", &key],
            "name the key of that certificate",
        ),
        (vec!["--ledger-db-url", url, "--ledger-call-timeout", "1ms"], "--ledger-call-timeout"),
    ] {
        let process = Process::command(env!("CARGO_BIN_EXE_leasehold"))?
            .env_clear()
            .args(["worker", "ledger"])
            .args(&args)
            .spawn()?;
        assert_eq!(process.wait(LIMIT).await?.code(), Some(2), "{args:?}");
        let line = process.wait_for_line("error: ", LIMIT).await?;
        assert!(line.contains(said) && !line.contains("hunter2"), "{line}");
    }
    Ok(())
}
