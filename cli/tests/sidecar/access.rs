//! The sidecar's token and certificates at a ledger that knows its callers.

use lease_testbed::{Certificates, wait_until};
use sha2::{Digest, Sha256};

use crate::stage::{LIMIT, SCOPE, Stage, TENANT};

fn callers(tokens: &[&str]) -> String {
    let hash = |token: &&str| {
        let digits: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("'{digits}'")
    };
    let hashes = tokens.iter().map(hash).collect::<Vec<_>>().join(", ");
    format!(
        "[sidecars]\ntokenSha256 = [{hashes}]\nmay = ['sidecar']\ntenants = ['{TENANT}']\nscopes = ['{SCOPE}']\n"
    )
}

/// A node's scope is made by its first sidecar, which is no operator.
#[tokio::test]
async fn a_sidecar_makes_its_nodes_scope_by_its_own_right() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let token = "sidecar-token-0123456789abcdef-one";
    std::fs::write(file("access.toml"), callers(&[token]).replace(SCOPE, &format!("{SCOPE}/*")))?;
    std::fs::write(file("token"), token)?;
    let stage = Stage::with(&["--ledger-access-file", &file("access.toml")]).await?;
    let token = file("token");
    let flags = ["--ledger-token-file", &token, "--fencing-scope-mode", "perPod", "--node-name", "node-a"];
    let sidecar = stage.serving("a", 30, &flags).await?;
    assert_eq!(sidecar.reserve("r", 1).await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn a_token_is_replaced_under_a_sidecar_that_goes_on() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (old, new) = ("sidecar-token-0123456789abcdef-old", "sidecar-token-0123456789abcdef-new");
    std::fs::write(file("access.toml"), callers(&[old]))?;
    std::fs::write(file("token"), old)?;
    let stage = Stage::with(&["--ledger-access-file", &file("access.toml")]).await?;
    let without = stage.sidecar("b", 30, &[]).await?;
    assert_eq!(without.process.wait(LIMIT).await?.code(), Some(1), "nothing is shown");
    without.process.wait_for_line("the caller is unknown", LIMIT).await?;

    let sidecar = stage.serving("a", 3, &["--ledger-token-file", &file("token")]).await?;
    assert_eq!(sidecar.reserve("r1", 1).await?.status, 201);
    std::fs::write(file("access.toml"), callers(&[old, new]))?;
    stage.ledger.wait_for_line("reloaded what=", LIMIT).await?;
    std::fs::write(file("token"), new)?;
    sidecar.process.wait_for_line("reloaded what=", LIMIT).await?;
    std::fs::write(file("access.toml"), callers(&[new]))?;
    wait_until("the ledger has read its file again", LIMIT, async || {
        stage.ledger.lines().iter().filter(|line| line.contains("reloaded what=")).count() == 2
    })
    .await?;
    sidecar.renews(2.0).await?;
    assert_eq!(sidecar.reserve("r2", 1).await?.status, 201);
    assert!(!sidecar.says("fencing lease over"), "{:?}", sidecar.process.lines());
    for line in sidecar.process.lines().iter().chain(&stage.ledger.lines()) {
        assert!(!line.contains(old) && !line.contains(new), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn certificates_are_replaced_under_a_sidecar_that_goes_on() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let before = Certificates::make(folder.path())?;
    before.client("sidecar")?;
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let flags =
        ["--ledger-tls-cert-file", &cert, "--ledger-tls-key-file", &key, "--ledger-tls-client-ca-file", &ca];
    let stage = Stage::with(&flags).await?;
    let (cert, key) = (file("sidecar.crt"), file("sidecar.key"));
    let shown = ["--ledger-ca-file", &ca, "--ledger-server-name", "localhost", "--ledger-cert-file", &cert];
    let shown = [&shown[..], &["--ledger-key-file", &key]].concat();
    let sidecar = stage.sidecar_at(&format!("https://{}", stage.grpc), "a", 30, &shown).await?;
    sidecar.serves().await?;
    assert_eq!(sidecar.reserve("r1", 1).await?.status, 201);
    // Another authority signs all certificates from now on; whoever shows an old one gets nowhere.
    Certificates::make(folder.path())?.client("sidecar")?;
    let certificates_match = async || sidecar.reserve("r2", 1).await.is_ok_and(|answer| answer.status == 201);
    for process in [&stage.ledger, &sidecar.process] {
        process.wait_for_line("reloaded what=", LIMIT).await?;
    }
    wait_until("it decides by its new certificate", LIMIT, certificates_match).await?;
    sidecar.renews(1.0).await
}
