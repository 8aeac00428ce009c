//! TLS to the ledger, and a certificate of the sidecar's own.

use lease_testbed::Certificates;

use crate::stage::{LIMIT, Stage, leasehold};

#[tokio::test]
async fn speaks_tls_and_shows_its_certificate() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let certificates = Certificates::make(folder.path())?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let flags =
        ["--ledger-tls-cert-file", &cert, "--ledger-tls-key-file", &key, "--ledger-tls-client-ca-file", &ca];
    let stage = Stage::with(&flags).await?;
    let (cert, key) = certificates.client("sidecar")?;
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let at = format!("https://{}", stage.grpc);
    let trusting = ["--ledger-ca-file", &ca, "--ledger-server-name", "localhost"];
    let nobody = stage.sidecar_at(&at, "b", 2, &trusting).await?;
    assert_eq!(nobody.process.wait(LIMIT).await?.code(), Some(1), "without a certificate");
    nobody.process.wait_for_line("S4: acquire fencing lease at startup", LIMIT).await?;
    let shown = [&trusting[..], &["--ledger-cert-file", &cert, "--ledger-key-file", &key]].concat();
    let sidecar = stage.sidecar_at(&at, "a", 30, &shown).await?;
    sidecar.serves().await?;
    assert_eq!(sidecar.reserve("r", 1).await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_the_start() -> anyhow::Result<()> {
    let base = ["worker", "sidecar", "--fencing-scope", "s", "--tenant", "t", "--socket", "/tmp/none/x.sock"];
    for (more, said) in [
        (&["--ledger-url", "ftp://x"][..], "use https://HOST:PORT, or http://HOST:PORT"),
        (&["--ledger-url", "https://x"], "sidecar.ledgerCaFile is not set"),
        (&["--ledger-url", "http://x", "--ledger-ca-file", "/x"], "the ledger is not at https"),
        (&["--ledger-url", "https://x", "--ledger-ca-file", "/no/such"], "the file can't be read"),
        (
            &[
                "--ledger-url",
                "https://x",
                "--ledger-ca-file",
                "/dev/null",
                "--ledger-cert-file",
                "/dev/null",
            ],
            "sidecar.ledgerKeyFile is not set",
        ),
        (&["--ledger-url", "http://x", "--fencing-scope-mode", "perPod"], "sidecar.nodeName is not set"),
        (&["--ledger-url", "http://x", "--fencing-scope-mode", "each"], "use one of shared, perPod"),
        (&["--ledger-url", "http://x", "--fencing-ttl-seconds", "0"], "use a whole number from 1 to 3600"),
        (&["--ledger-url", "http://x", "--socket-mode", "rw"], "octal digits"),
        (&["--ledger-url", "http://x", "--node-name", "a/b"], "use the node's name"),
        (&[], "sidecar.ledgerUrl is not set"),
    ] {
        let process = leasehold(&[&base[..], more].concat())?;
        assert_eq!(process.wait(LIMIT).await?.code(), Some(2), "{more:?}: {:?}", process.lines());
        process.wait_for_line(said, LIMIT).await?;
    }
    Ok(())
}
