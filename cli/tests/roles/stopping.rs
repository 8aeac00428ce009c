//! SIGTERM and SIGINT: not ready, what is under way ends, the lease is kept meanwhile and released after; past the
//! budget nothing is released, and the process says what it leaves behind.

use lease_testbed::{Hold, Proxy, Signal, wait_for, wait_until};
use lease_worker_common::http_client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{LIMIT, SHORT, Stage, Worker};

/// The elector's line.
const RELEASED: &str = "lease_core::events: released ";

pub(crate) fn says(worker: &Worker, text: &str) -> bool {
    worker.process.lines().iter().any(|line| line.contains(text))
}

/// A leader whose batch of 300 rows is on its way to the ingest and goes no further.
pub(crate) async fn with_a_batch_under_way(
    stage: &Stage,
    ingest: &Worker,
    more: &[&str],
) -> anyhow::Result<(Worker, Hold, Proxy)> {
    let proxy = ingest.proxy()?;
    // It gives no call up before it has heard the answer.
    let more = [&["--call-timeout", "120s"][..], more].concat();
    let leader = stage.forwarder_with("a", &proxy.addr().to_string(), &stage.outbox, &more).await?;
    leader.leads().await?;
    let mut hold = proxy.hold(|request| request.contains("POST /v1/events"));
    stage.append(0, 300).await?;
    hold.held().await?;
    Ok((leader, hold, proxy))
}

async fn the_lease_is_kept_while_the_batch_ends(stage: Stage, signal: Signal) -> anyhow::Result<()> {
    const BEATS: &str = "spendguard_outbox_forwarder_leader_age_seconds_count";
    let ingest = stage.ingest().await?;
    let patient = ["--stop-budget", "600s"];
    let (leader, hold, _proxy) = with_a_batch_under_way(&stage, &ingest, &patient).await?;
    let standby = stage.forwarder("b", &ingest.address).await?;
    standby.process.wait_for_line("standing by", LIMIT).await?;
    leader.process.signal(signal)?;
    leader.process.wait_for_line("stopping; a second signal ends the process at once", LIMIT).await?;
    assert_eq!(leader.get("/readyz").await?, (503, "stopping\n".to_owned()));
    assert_eq!(leader.get("/healthz").await?.0, 200, "a process that drains is not restarted");
    // The lease is kept by them alone. They aren't shown before the first one.
    let before = leader.metric(BEATS).await.unwrap_or(0.0);
    wait_until("four beats are acknowledged while it drains", LIMIT, || async {
        leader.metric(BEATS).await.is_ok_and(|beats| beats >= before + 4.0)
    })
    .await?;
    assert_eq!(leader.metric("spendguard_outbox_forwarder_is_leader").await?, 1.0);
    assert_eq!(standby.metric("spendguard_outbox_forwarder_is_leader").await?, 0.0);
    assert!(!says(&leader, RELEASED));
    hold.release();
    assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(0));
    leader.process.wait_for_line(RELEASED, LIMIT).await?;
    standby.leads().await?;
    stage.all_arrived(300).await?;
    let mine = stage.outbox_int("SELECT count(*) FROM audit_outbox WHERE forwarded_epoch = 1").await?;
    assert!(stage.server.is_some() || mine == 300, "the stopping leader marked its own batch");
    Ok(())
}

#[tokio::test]
async fn sqlite_the_lease_is_kept_while_the_batch_ends() -> anyhow::Result<()> {
    the_lease_is_kept_while_the_batch_ends(Stage::sqlite().await?, Signal::INT).await
}

#[tokio::test]
async fn postgres_the_lease_is_kept_while_the_batch_ends() -> anyhow::Result<()> {
    the_lease_is_kept_while_the_batch_ends(Stage::postgres().await?, Signal::TERM).await
}

#[tokio::test]
async fn past_the_budget_nothing_is_released_and_what_is_left_is_named() -> anyhow::Result<()> {
    for (mode, and) in [
        (&[][..], "the lease was not released and runs out by itself"),
        (&["--mode", "disabled"], "each event is kept once"),
    ] {
        let stage = Stage::sqlite().await?;
        let ingest = stage.ingest().await?;
        let more = [&["--stop-budget", "300ms"][..], &SHORT, mode].concat();
        let (leader, hold, _proxy) = with_a_batch_under_way(&stage, &ingest, &more).await?;
        leader.process.signal(Signal::TERM)?;
        assert_eq!(leader.process.wait(LIMIT).await?.code(), Some(1));
        for part in
            ["the stop budget of 300ms", "abandoned a batch of 300 rows, outbox_id 1 to 300, sent", and]
        {
            leader.process.wait_for_line(part, LIMIT).await?;
        }
        assert!(!says(&leader, RELEASED));
        drop(hold);
        let more = [&SHORT[..], mode].concat();
        let next = stage.forwarder_with("b", &ingest.address, &stage.outbox, &more).await?;
        next.leads().await?;
        stage.all_arrived(300).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_leader_at_once_and_loses_nothing() -> anyhow::Result<()> {
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)] {
        let stage = Stage::sqlite().await?;
        let ingest = stage.ingest().await?;
        let (leader, hold, _proxy) = with_a_batch_under_way(&stage, &ingest, &SHORT).await?;
        leader.process.signal(first)?;
        leader.process.wait_for_line("stopping; a second signal", LIMIT).await?;
        assert_eq!(leader.process.insist(second, LIMIT).await?.code(), Some(code));
        assert!(!says(&leader, RELEASED));
        hold.release();
        let next = stage.forwarder_with("b", &ingest.address, &stage.outbox, &SHORT).await?;
        next.leads().await?;
        stage.all_arrived(300).await?;
    }
    Ok(())
}

const BODY: &str = "[{\"specversion\":\"1.0\",\"type\":\"com.spendguard.audit.v1\",\"source\":\"/test\",\
    \"id\":\"acme/ledger-0/0\",\"time\":\"2026-01-02T03:04:05Z\",\"datacontenttype\":\"application/json\",\
    \"fencingepoch\":\"1\",\"data\":{}}]";

/// A request to the ingest, all but its last byte; the ingest has begun with it.
async fn with_a_request_under_way(stage: &Stage, more: &[&str]) -> anyhow::Result<(Worker, TcpStream)> {
    let args = ["worker", "canonical-ingest", "--canonical-url", &stage.canonical, "--max-requests", "1"];
    let ingest = Worker::start(&[&args[..], more].concat()).await?;
    let mut client = ingest.begun(BODY.len()).await?;
    client.write_all(&BODY.as_bytes()[..BODY.len() - 1]).await?;
    Ok((ingest, client))
}

async fn post_nothing(to: &Worker) -> anyhow::Result<(u16, String)> {
    let reply = http_client(LIMIT)?.post(format!("http://{}/v1/events", to.address)).send().await?;
    if reply.status() == 503 {
        assert_eq!(reply.headers().get("retry-after").map(|value| value.as_bytes()), Some(&b"1"[..]));
    }
    let status = reply.status().as_u16();
    let body: serde_json::Value = reply.json().await?;
    Ok((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

#[tokio::test]
async fn an_ingest_that_stops_answers_what_it_has_begun_and_takes_no_more() -> anyhow::Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let stage = Stage::sqlite().await?;
        let (ingest, mut client) = with_a_request_under_way(&stage, &[]).await?;
        ingest.process.signal(signal)?;
        ingest.process.wait_for_line("stopping; a second signal", LIMIT).await?;
        assert_eq!(ingest.get("/readyz").await?, (503, "stopping\n".to_owned()));
        wait_for("it takes no more", LIMIT, || async {
            let (status, code) = post_nothing(&ingest).await?;
            anyhow::ensure!((status, code.as_str()) == (503, "STOPPING"), "{status} {code}");
            Ok(())
        })
        .await?;
        assert_eq!(ingest.process.exit_status(), None, "it waits for the one that it has begun");
        client.write_all(&BODY.as_bytes()[BODY.len() - 1..]).await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"accepted\":1"), "{answer}");
        assert_eq!(ingest.process.wait(LIMIT).await?.code(), Some(0));
        assert_eq!(stage.canonical_int("SELECT count(*) FROM canonical_events").await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn an_ingest_past_its_budget_says_what_it_abandons() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let (ingest, _client) = with_a_request_under_way(&stage, &["--stop-budget", "300ms"]).await?;
    ingest.process.signal(Signal::TERM)?;
    assert_eq!(ingest.process.wait(LIMIT).await?.code(), Some(1));
    for part in
        ["the stop budget of 300ms", "abandoned a request whose body is still read", "send the events again"]
    {
        ingest.process.wait_for_line(part, LIMIT).await?;
    }
    let (ingest, _client) = with_a_request_under_way(&stage, &[]).await?;
    ingest.process.signal(Signal::TERM)?;
    ingest.process.wait_for_line("stopping; a second signal", LIMIT).await?;
    let ended = ingest.process.insist(Signal::TERM, LIMIT).await?;
    assert_eq!(ended.code(), Some(143), "a second signal waits for nothing");
    Ok(())
}
