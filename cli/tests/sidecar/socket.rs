//! The socket's file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use lease_testbed::{Process, wait_until};

use crate::stage::{LIMIT, SCOPE, Stage, TENANT};

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

/// In a sticky folder (the chart's, where the cluster chooses the user) nobody but root removes another user's files.
#[tokio::test]
async fn what_another_user_left_behind_is_named_with_its_owner() -> anyhow::Result<()> {
    assert!(rustix::process::geteuid().is_root(), "run this as root: it changes the user");
    // Whoever may not connect can't even tell whether it is served.
    for (left, mode) in [("s.sock", 0o600), ("s.sock", 0o666), ("s.sock.lock", 0o600), ("s.sock.new", 0o600)]
    {
        let stage = Stage::new().await?;
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777))?;
        // Nobody serves it any more.
        drop(UnixListener::bind(folder.path().join(left))?);
        std::fs::set_permissions(folder.path().join(left), Permissions::from_mode(mode))?;
        let socket = folder.path().join("s.sock").display().to_string();
        let (url, own) =
            (format!("http://{}", stage.grpc), ["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let args =
            ["worker", "sidecar", "--listen", "127.0.0.1:0", "--fencing-scope", SCOPE, "--tenant", TENANT];
        let args = [&args[..], &["--ledger-url", &url, "--socket", &socket]].concat();
        let command = Process::command("setpriv")?.env_clear().args(own);
        let sidecar = command.arg(env!("CARGO_BIN_EXE_leasehold")).args(args).spawn()?;
        assert_eq!(sidecar.wait(LIMIT).await?.code(), Some(1), "{left}");
        let said =
            format!("{left} belongs to user 0, and this sidecar, which is user 65534, can't replace it");
        let line = sidecar.wait_for_line(&said, LIMIT).await?;
        assert!(line.contains("remove the file as that user or as root"), "{line}");
        assert!(
            left == "s.sock.new" || !folder.path().join("s.sock.new").exists(),
            "it leaves nothing behind"
        );
        assert_eq!(stage.holder().await?, None, "nobody has to wait for a ttl");
    }
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
