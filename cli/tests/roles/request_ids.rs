//! A request's id goes from the outbox row into the event, and into the log lines of both ends.

use lease_spendguard::cloudevents::EventKey;
use lease_spendguard::outbox::{self, NewEvent};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::fake::Fake;
use crate::stage::{LIMIT, Stage};

async fn append(stage: &Stage, sequence: i64, payload: &Value) -> anyhow::Result<()> {
    let key = EventKey {
        tenant_id: "acme".into(),
        workload_instance_id: "ledger-0".into(),
        producer_sequence: sequence,
    };
    let event = NewEvent { key, event_time: 0, fencing_epoch: 1, payload: to_raw_value(payload)? };
    let database = stage.outbox.parse().map_err(anyhow::Error::msg)?;
    Ok(outbox::open(&database, false, LIMIT).await?.append(&[event]).await?)
}

#[tokio::test]
async fn it_is_an_attribute_of_the_event() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    append(&stage, 0, &json!({ "request_id": "r-4711", "amount_minor": 5 })).await?;
    append(&stage, 1, &json!({ "amount_minor": 5 })).await?;
    let fake = Fake::start(&[(200, None)]).await?;
    let _forwarder = stage.forwarder("a", &fake.address).await?;
    let batch: Value = serde_json::from_str(&fake.asked(1).await?[0].1)?;
    assert_eq!(batch[0]["requestid"], "r-4711");
    assert_eq!(batch[1].get("requestid"), None, "{batch}");
    Ok(())
}

#[tokio::test]
async fn it_is_in_the_lines_of_the_forwarder_and_of_the_ingest() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    append(&stage, 0, &json!({ "request_id": "r-4711" })).await?;
    append(&stage, 1, &json!({ "request_id": "forged\nlevel=ERROR" })).await?;
    let ingest = stage.ingest().await?;
    let forwarder = stage.forwarder("a", &ingest.address).await?;
    stage.drained().await?;
    for (worker, what) in [(&ingest, "ingested"), (&forwarder, "forwarded")] {
        let line = worker.process.wait_for_line("r-4711", LIMIT).await?;
        assert!(line.contains(what) && line.contains("acme/ledger-0/0"), "{line}");
        assert!(
            !worker.process.lines().iter().any(|line| line.contains("forged") || line.starts_with("level"))
        );
    }
    Ok(())
}
