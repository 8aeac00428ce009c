//! Mode `disabled`: no lease, but a term from the outbox's own database.

use lease_testbed::Signal;

use crate::stage::{LIMIT, Stage};

async fn an_accidental_second_instance_fences_the_first_out(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let alone = &["--mode", "disabled"];
    let first = stage.forwarder_with("a", &ingest.address, &stage.outbox, alone).await?;
    first.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;
    assert_eq!(first.metric("spendguard_outbox_forwarder_is_leader").await?, 1.0);

    let second = stage.forwarder_with("b", &ingest.address, &stage.outbox, alone).await?;
    second.leads().await?;
    assert_eq!(second.epoch()?, first.epoch()? + 1, "the greatest admitted epoch + 1");
    // Whoever of the two reads these rows first: only the second can mark them.
    let mut written = 100;
    while first.metric("spendguard_outbox_forwarder_is_leader").await? == 1.0 {
        stage.append(written, written + 50).await?;
        written += 50;
        stage.all_arrived(written).await?;
    }
    first.process.wait_for_line("another instance does this work", LIMIT).await?;
    assert_eq!(first.get("/readyz").await?.0, 503, "it says that it does nothing");
    assert!(first.metric("spendguard_outbox_forwarder_leader_age_seconds_count").await? >= 1.0);
    stage.append(written, written + 100).await?;
    stage.all_arrived(written + 100).await?;
    assert_eq!(first.process.lines().iter().filter(|line| line.contains("leading")).count(), 1, "no duel");
    for worker in [first, second] {
        worker.process.signal(Signal::TERM)?;
        assert_eq!(worker.process.wait(LIMIT).await?.code(), Some(0));
    }
    Ok(())
}

#[tokio::test]
async fn sqlite_an_accidental_second_instance_fences_the_first_out() -> anyhow::Result<()> {
    an_accidental_second_instance_fences_the_first_out(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_an_accidental_second_instance_fences_the_first_out() -> anyhow::Result<()> {
    an_accidental_second_instance_fences_the_first_out(Stage::postgres().await?).await
}
