//! It takes its scope first, and fails closed.

use std::os::unix::fs::PermissionsExt;

use lease_testbed::Signal;

use crate::stage::{HOLDING, LIMIT, Sidecar, Stage};

async fn fails_closed(sidecar: &Sidecar, parts: &[&str]) -> anyhow::Result<()> {
    assert_eq!(sidecar.process.wait(LIMIT).await?.code(), Some(1), "{:?}", sidecar.process.lines());
    for part in [&["error: S4: acquire fencing lease at startup: fencing scope "], parts].concat() {
        sidecar.process.wait_for_line(part, LIMIT).await?;
    }
    assert!(!sidecar.socket.exists(), "no pod may find it");
    Ok(())
}

#[tokio::test]
async fn refused_while_another_holds_the_scope() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let _holder = stage.serving("first", 30, &[]).await?;
    let second = stage.sidecar("second", 30, &[]).await?;
    fails_closed(&second, &["first holds it in epoch 1 until 20", "--standby true"]).await?;
    assert_eq!(stage.holder().await?.as_deref(), Some("first"));
    Ok(())
}

#[tokio::test]
async fn refused_without_a_ledger() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let away = stage.sidecar_at("http://127.0.0.1:1", "a", 30, &[]).await?;
    fails_closed(&away, &["the ledger can't be reached", "--ledger-url"]).await?;
    Ok(())
}

#[tokio::test]
async fn refused_by_name_if_the_scope_is_unknown_or_another_tenants() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let socket = stage.socket("x").display().to_string();
    let ledger = format!("http://{}", stage.grpc);
    for (scope, tenant, code) in
        [("other", "acme", "FENCING_SCOPE_UNKNOWN"), ("payments", "evil", "TENANT_MISMATCH")]
    {
        // Also as a standby: waiting does not fix it.
        for standby in ["false", "true"] {
            let args = [
                "worker",
                "sidecar",
                "--listen",
                "127.0.0.1:0",
                "--ledger-url",
                &ledger,
                "--socket",
                &socket,
            ];
            let more = ["--fencing-scope", scope, "--tenant", tenant, "--standby", standby];
            let process = crate::stage::leasehold(&[&args[..], &more].concat())?;
            assert_eq!(process.wait(LIMIT).await?.code(), Some(1));
            let line = process.wait_for_line("S4: acquire fencing lease at startup", LIMIT).await?;
            assert!(line.contains(code) && line.contains("fix what it says"), "{line}");
            assert!(!stage.socket("x").exists());
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_socket_is_there_only_after_the_scope_is_held() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let mut hold = proxy.hold(|request| request.calls("Ledger/PutFencingScope"));
    let ledger = format!("http://{}", proxy.addr());
    let sidecar = stage.sidecar_at(&ledger, "a", 30, &["--socket-mode", "0622"]).await?;
    hold.held().await?;
    assert!(!sidecar.socket.exists());
    assert_eq!(sidecar.get("/readyz").await?.0, 503);
    assert_eq!(sidecar.get("/healthz").await?.0, 200);
    hold.release();
    sidecar.serves().await?;
    assert_eq!(std::fs::metadata(&sidecar.socket)?.permissions().mode() & 0o777, 0o622);
    assert_eq!(sidecar.get("/readyz").await?, (200, "ok\n".to_owned()));
    assert_eq!(sidecar.metric("spendguard_sidecar_fencing_epoch").await?, 1.0);
    let position = |text: &str| sidecar.process.lines().iter().position(|line| line.contains(text));
    assert!(position(HOLDING) < position("serving socket="));
    sidecar.process.signal(Signal::TERM)?;
    assert_eq!(sidecar.process.wait(LIMIT).await?.code(), Some(0));
    assert!(!sidecar.socket.exists());
    assert_eq!(stage.holder().await?, None, "it was given up");
    Ok(())
}

/// An acquisition whose reply is lost is confirmed by a renewal, and not made again (U-2).
#[tokio::test]
async fn an_acquisition_whose_reply_is_lost_is_adopted() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let proxy = stage.proxy()?;
    let mut lost = proxy.lose_reply(|request| request.calls("Ledger/PutFencingScope"));
    let sidecar = stage.sidecar_at(&format!("http://{}", proxy.addr()), "a", 6, &[]).await?;
    lost.lost().await?;
    sidecar.serves().await?;
    assert_eq!(sidecar.metric("spendguard_sidecar_fencing_epoch").await?, 1.0);
    assert_eq!(stage.int("SELECT count(*) FROM fencing_scope_events").await?, 1);
    Ok(())
}
