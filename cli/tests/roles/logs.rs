//! A log that can't be written doesn't matter: its reader has stopped or is gone, or its disk is full.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use lease_testbed::{Signal, closed_pipe, full_disk, full_pipe, wait_until};

use crate::stage::{LIMIT, Stage, Worker};

/// So many lines that no queue holds them.
const LOUD: [&str; 4] = ["--log", "trace", "--poll-interval", "1ms"];

async fn drops_lines(worker: &Worker) -> anyhow::Result<()> {
    wait_until("lines of its log are dropped", LIMIT, || async {
        worker.metric("leasehold_log_lines_dropped_total").await.is_ok_and(|dropped| dropped > 0.0)
    })
    .await
}

#[tokio::test]
async fn a_leader_whose_log_nobody_reads_works_and_hands_over() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let (_log, to_log) = full_pipe()?;
    let leader = stage.unheard_forwarder("a", &ingest.address, to_log, &LOUD).await?;
    leader.says_that_it_leads().await?;
    drops_lines(&leader).await?;
    stage.append(0, 300).await?;
    stage.all_arrived(300).await?;
    leader.ready().await?;
    let standby = stage.forwarder("b", &ingest.address).await?;
    standby.process.wait_for_line("standing by", LIMIT).await?;
    leader.process.signal(Signal::TERM)?;
    let ended = leader.process.wait(LIMIT).await?;
    assert_eq!(ended.code(), Some(0), "1: its stop budget was used up");
    standby.leads().await?;
    stage.append(300, 600).await?;
    stage.all_arrived(600).await
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_many_lines_are_missing() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let (log, to_log) = full_pipe()?;
    let more = [&LOUD[..], &["--log-format", "json"]].concat();
    let leader = stage.unheard_forwarder("a", &ingest.address, to_log, &more).await?;
    drops_lines(&leader).await?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        let told = lines.find(|line| line.contains("were dropped while standard error could not be written"));
        // Read on, so that this test ends nothing by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        told
    });
    let told = tokio::time::timeout(LIMIT, reading).await??.unwrap_or_default();
    let told: serde_json::Value = serde_json::from_str(&told)?;
    assert_eq!((&told["level"], &told["role"]), (&"WARN".into(), &"outbox-forwarder".into()));
    let (count, rest) = told["message"].as_str().and_then(|text| text.split_once(' ')).unwrap_or_default();
    assert!(count.parse::<u64>()? > 0 && rest.starts_with("log lines were dropped"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_leader_and_a_standby_whose_log_can_not_be_written_go_on() -> anyhow::Result<()> {
    let full = || full_disk().map(Stdio::from);
    let closed = || closed_pipe().map(Stdio::from);
    let logs: [&dyn Fn() -> std::io::Result<Stdio>; 2] = [&full, &closed];
    for log in logs {
        let stage = Stage::sqlite().await?;
        let ingest = stage.ingest().await?;
        let leader = stage.unheard_forwarder("a", &ingest.address, log()?, &[]).await?;
        leader.says_that_it_leads().await?;
        let standby = stage.unheard_forwarder("b", &ingest.address, log()?, &[]).await?;
        standby.ready().await?;
        for worker in [&leader, &standby] {
            drops_lines(worker).await?;
        }
        stage.append(0, 300).await?;
        stage.all_arrived(300).await?;
        leader.process.signal(Signal::TERM)?;
        assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(0));
        standby.says_that_it_leads().await?;
        stage.append(300, 600).await?;
        stage.all_arrived(600).await?;
        standby.process.signal(Signal::INT)?;
        assert_eq!(standby.process.wait(LIMIT).await?.code(), Some(0));
    }
    Ok(())
}
