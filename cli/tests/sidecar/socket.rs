//! The socket's file.

use std::os::unix::net::{UnixListener, UnixStream};

use lease_testbed::wait_until;

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

/// Else its descriptors would run out, and with them the way to connect to the ledger again.
#[tokio::test]
async fn whoever_opens_connections_without_end_gets_only_so_many() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let sidecar = stage.serving("a", 3, &[]).await?;
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", sidecar.process.id())).map(|entries| entries.count());
    let before = descriptors()?;
    let greedy: Vec<_> = (0..600).map(|_| UnixStream::connect(&sidecar.socket)).collect::<Result<_, _>>()?;
    // Nearly all of the 512 places: a connection of before may be among them.
    wait_until("it has accepted what it may", LIMIT, async || {
        descriptors().is_ok_and(|now| now >= before + 500)
    })
    .await?;
    sidecar.renews(2.0).await?;
    assert!(descriptors()? < before + 550, "{} of them", descriptors()? - before);
    drop(greedy);
    assert_eq!(sidecar.reserve("r", 1).await?.status, 201, "there is room again");
    Ok(())
}
