//! The normal life: leading, standing by, stopping.

use lease_testbed::{Signal, wait_until};

use crate::fake::Fake;
use crate::stage::{LIMIT, Stage, Worker};

async fn one_forwards_all_stand_by_and_both_signals_end_cleanly(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let first = stage.forwarder("a", &ingest.address).await?;
    first.leads().await?;
    let second = stage.forwarder("b", &ingest.address).await?;
    second.process.wait_for_line("standing by", LIMIT).await?;
    stage.append(0, 2_500).await?;
    stage.all_arrived(2_500).await?;

    let name = |what: &str| format!("spendguard_outbox_forwarder_{what}");
    assert_eq!(first.metric(&name("is_leader")).await?, 1.0);
    assert_eq!(second.metric(&name("is_leader")).await?, 0.0);
    wait_until("all are counted, a moment after they were marked", LIMIT, || async {
        first.metric(&name("rows_forwarded_total")).await.is_ok_and(|count| count == 2_500.0)
    })
    .await?;
    assert_eq!(second.metric(&name("rows_forwarded_total")).await?, 0.0);
    assert!(first.metric(&name("loop_iterations_total")).await? >= 5.0, "2,500 rows are at least 5 batches");
    assert_eq!(second.metric(&name("loop_iterations_total")).await?, 0.0);
    assert_eq!(first.metric(&name("skip_total{reason=\"lease_expired\"}")).await?, 0.0);
    assert_eq!(first.metric("spendguard_outbox_pending_oldest_age_seconds").await?, 0.0);
    wait_until("a beat was counted", LIMIT, || async {
        first.metric(&name("leader_age_seconds_count")).await.is_ok_and(|count| count >= 1.0)
    })
    .await?;
    for worker in [&first, &second, &ingest] {
        assert_eq!(worker.get("/healthz").await?, (200, "ok\n".to_owned()));
        worker.ready().await?;
    }

    stop(&first, Signal::TERM).await?;
    first.process.wait_for_line(" released ", LIMIT).await?;
    second.leads().await?;
    assert!(second.epoch()? > first.epoch()?, "each acquisition is a new term");
    stage.append(2_500, 3_000).await?;
    stage.all_arrived(3_000).await?;
    stop(&second, Signal::INT).await?;
    second.process.wait_for_line(" released ", LIMIT).await?;
    Ok(())
}

async fn stop(worker: &Worker, signal: Signal) -> anyhow::Result<()> {
    worker.process.signal(signal)?;
    assert_eq!(worker.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn sqlite_one_forwards_all_stand_by_and_both_signals_end_cleanly() -> anyhow::Result<()> {
    one_forwards_all_stand_by_and_both_signals_end_cleanly(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_one_forwards_all_stand_by_and_both_signals_end_cleanly() -> anyhow::Result<()> {
    one_forwards_all_stand_by_and_both_signals_end_cleanly(Stage::postgres().await?).await
}

/// An outage of the ingest costs nothing but time: the leader stays, says why it waits, and the age is visible.
#[tokio::test]
async fn waits_for_an_ingest_that_is_away() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let proxy = ingest.proxy()?;
    proxy.refuse(true).await?;
    let forwarder = stage.forwarder("a", &proxy.addr().to_string()).await?;
    forwarder.leads().await?;
    stage.append(0, 10).await?;
    forwarder.process.wait_for_line("batch failed; retrying", LIMIT).await?;
    assert!(
        forwarder.metric("spendguard_outbox_forwarder_skip_total{reason=\"ingest_unavailable\"}").await?
            >= 1.0
    );
    assert!(forwarder.metric("spendguard_outbox_pending_oldest_age_seconds").await? > 0.0);
    proxy.refuse(false).await?;
    stage.all_arrived(10).await?;
    assert_eq!(
        forwarder.metric("spendguard_outbox_forwarder_is_leader").await?,
        1.0,
        "the same term all along"
    );
    stop(&forwarder, Signal::TERM).await
}

/// A batch that the ingest finds too large is sent in halves.
#[tokio::test]
async fn sends_less_at_once_to_an_ingest_that_takes_less() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let url = stage.canonical.clone();
    let args = ["worker", "canonical-ingest", "--canonical-url", &url, "--max-body-bytes", "4096"];
    let ingest = Worker::start(&args).await?;
    stage.append(0, 200).await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    stage.all_arrived(200).await?;
    stop(&forwarder, Signal::TERM).await
}

/// All others are delivered, before it and after it, and the operator is told which row it is.
async fn a_row_that_can_never_be_delivered_is_named_and_holds_up_no_other(
    stage: Stage,
    spoil: &'static str,
    mend: &'static str,
) -> anyhow::Result<()> {
    stage.append(0, 10).await?;
    let row = stage.outbox_int(spoil).await?;
    let ingest = stage.ingest().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    forwarder.process.wait_for_line(&format!("row {row} of the outbox: "), LIMIT).await?;
    wait_until("the others are delivered", LIMIT, || async {
        stage.canonical_int("SELECT count(*) FROM canonical_events").await.is_ok_and(|kept| kept == 9)
    })
    .await?;
    let metric = "spendguard_outbox_forwarder_skip_total{reason=\"ingest_rejected\"}";
    assert!(forwarder.metric(metric).await? >= 1.0);
    assert!(forwarder.metric("spendguard_outbox_forwarder_rows_left_out_total").await? >= 1.0);
    assert!(
        forwarder.metric("spendguard_outbox_pending_oldest_age_seconds").await? > 0.0,
        "it is not forgotten"
    );
    stage.outbox_int(mend).await?;
    stage.all_arrived(10).await
}

#[tokio::test]
async fn postgres_a_row_that_can_never_be_delivered_is_named_and_holds_up_no_other() -> anyhow::Result<()> {
    a_row_that_can_never_be_delivered_is_named_and_holds_up_no_other(
        Stage::postgres().await?,
        r#"UPDATE audit_outbox SET payload = '{"a":"\u0000"}' WHERE producer_sequence = 6 RETURNING outbox_id"#,
        "UPDATE audit_outbox SET payload = '{}' WHERE producer_sequence = 6 RETURNING outbox_id",
    )
    .await
}

#[tokio::test]
async fn postgres_a_row_of_no_time_is_named_and_holds_up_no_other() -> anyhow::Result<()> {
    a_row_that_can_never_be_delivered_is_named_and_holds_up_no_other(
        Stage::postgres().await?,
        "UPDATE audit_outbox SET event_time = 'infinity' WHERE producer_sequence = 0 RETURNING outbox_id",
        "UPDATE audit_outbox SET event_time = now() WHERE producer_sequence = 0 RETURNING outbox_id",
    )
    .await
}

#[tokio::test]
async fn sqlite_a_row_that_is_nested_too_deeply_is_named_and_holds_up_no_other() -> anyhow::Result<()> {
    a_row_that_can_never_be_delivered_is_named_and_holds_up_no_other(
        Stage::sqlite().await?,
        "UPDATE audit_outbox SET payload = replace(hex(zeroblob(300)), '0', '[') || replace(hex(zeroblob(300)), '0', ']')
         WHERE producer_sequence = 6 RETURNING outbox_id",
        "UPDATE audit_outbox SET payload = '{}' WHERE producer_sequence = 6 RETURNING outbox_id",
    )
    .await
}

/// A wrong path, a proxy's page, a token that nobody knows, a right that is missing.
#[tokio::test]
async fn an_answer_that_blames_no_row_leaves_none_out() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    stage.append(0, 4).await?;
    let ingest = Fake::start(&[401, 403, 404, 405, 200].map(|status| (status, None))).await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    let asked = ingest.asked(5).await?;
    assert!(asked.iter().all(|(_, body)| *body == asked[0].1), "the same batch each time: {asked:?}");
    let metric = async |what: &str| forwarder.metric(&format!("spendguard_outbox_forwarder_{what}")).await;
    assert_eq!(metric("skip_total{reason=\"ingest_unavailable\"}").await?, 4.0);
    assert_eq!(metric("skip_total{reason=\"ingest_rejected\"}").await?, 0.0);
    assert_eq!(metric("rows_left_out_total").await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn a_secret_in_the_ingests_url_is_in_no_line() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    stage.append(0, 1).await?;
    let secret = "http://fw:hunter2@127.0.0.1:9/v1/events?token=hunter3";
    let args = ["worker", "outbox-forwarder", "--workload-id", "a", "--mode", "disabled"];
    let args = [&args[..], &["--outbox-url", &stage.outbox, "--ingest-url", secret]].concat();
    let forwarder = Worker::start(&args).await?;
    forwarder.process.wait_for_line("batch failed; retrying", LIMIT).await?;
    let lines = forwarder.process.lines();
    assert!(lines.iter().any(|line| line.contains("ingest=\"http://***:***@127.0.0.1:9/")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("hunter")), "{lines:#?}");
    Ok(())
}
