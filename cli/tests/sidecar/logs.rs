//! Neither a sidecar nor its ledger waits for whoever reads its log.

use std::io::PipeReader;

use lease_testbed::{Process, Signal, free_port, full_pipe, wait_until};

use crate::stage::{LIMIT, SCOPE, Sidecar, Stage, TENANT};

/// A worker whose log nobody reads, and the address of its pages.
fn unheard(args: &[&str]) -> anyhow::Result<(Process, String, PipeReader)> {
    let (log, to_log) = full_pipe()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let command = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args);
    let process = command.args(["--log", "trace", "--listen", &address]).stderr(to_log).spawn()?;
    Ok((process, address, log))
}

#[tokio::test]
async fn a_sidecar_and_a_ledger_whose_log_nobody_reads_decide_and_release() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let grpc = format!("127.0.0.1:{}", free_port()?);
    let args = ["worker", "ledger", "--ledger-db-url", &stage.url, "--grpc-listen", &grpc];
    let (ledger, _, _ledgers_log) = unheard(&args)?;
    let (socket, url) = (stage.socket("a"), format!("http://{grpc}"));
    // It waits for the ledger.
    let args = ["worker", "sidecar", "--workload-id", "a", "--standby", "true", "--fencing-scope", SCOPE];
    let also = ["--tenant", TENANT, "--ledger-url", &url, "--socket", socket.to_str().unwrap_or_default()];
    let (process, address, _sidecars_log) = unheard(&[&args[..], &also].concat())?;
    let sidecar = Sidecar { process, address, socket };
    wait_until("it serves", LIMIT, || async {
        sidecar.get("/readyz").await.is_ok_and(|(status, _)| status == 200) && sidecar.socket.exists()
    })
    .await?;
    for number in 0..50 {
        let answer = sidecar.reserve(&format!("key-{number}"), 1).await?;
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(stage.holder().await?.as_deref(), Some("a"));
    sidecar.process.signal(Signal::TERM)?;
    assert_eq!(sidecar.process.wait(LIMIT).await?.code(), Some(0));
    assert_eq!(stage.holder().await?, None, "released");
    ledger.signal(Signal::TERM)?;
    assert_eq!(ledger.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}
