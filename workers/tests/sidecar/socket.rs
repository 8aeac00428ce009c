//! The socket's file.

use std::os::unix::net::UnixListener;

use crate::stage::{LIMIT, Stage};

/// Somebody else serves the path: it is left alone, and the scope is given up for one who can serve.
#[tokio::test]
async fn a_live_socket_is_never_taken() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let live = UnixListener::bind(stage.socket("a"))?;
    let sidecar = stage.sidecar("a", 30, &[]).await?;
    assert_eq!(sidecar.process.wait(LIMIT).await?.code(), Some(1));
    let said = "is served by another process: stop that one, or choose another --socket";
    sidecar.process.wait_for_line(said, LIMIT).await?;
    assert_eq!(stage.holder().await?, None, "nobody has to wait for a ttl");
    drop(live);
    let sidecar = stage.serving("a", 30, &[]).await?;
    assert_eq!(sidecar.reserve("r", 1).await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn what_is_no_socket_stays() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    std::fs::write(stage.socket("a"), "notes")?;
    let sidecar = stage.sidecar("a", 30, &[]).await?;
    assert_eq!(sidecar.process.wait(LIMIT).await?.code(), Some(1));
    sidecar.process.wait_for_line("is there and is no socket", LIMIT).await?;
    assert_eq!(std::fs::read_to_string(stage.socket("a"))?, "notes");
    Ok(())
}
