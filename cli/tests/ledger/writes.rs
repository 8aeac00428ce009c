//! Reservations from beginning to end, their audit and outbox rows, and requests that are repeated.

use crate::stage::{Stage, attempt, fence, outcome, reserve, settle, won};

#[tokio::test]
async fn every_change_has_an_audit_row_and_an_outbox_row() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);

    let spent = outcome(client.reserve(reserve(&fence, "k1", 300)).await?)?.expect("there is room");
    assert_eq!((spent.state.as_str(), spent.fencing_epoch), ("reserved", 1));
    let given_back = outcome(client.reserve(reserve(&fence, "k2", 700)).await?)?.expect("there is room");
    let spent =
        outcome(client.commit(settle(&fence, "k3", &spent.reservation_id)).await?)?.expect("it is live");
    assert_eq!(spent.state, "committed");
    let given_back = outcome(client.release(settle(&fence, "k4", &given_back.reservation_id)).await?)?
        .expect("it is live");
    assert_eq!(given_back.state, "released");

    stage.books_balance().await?;
    assert_eq!(
        stage.texts("SELECT concat_ws(' ', reserved_minor, committed_minor) FROM budgets").await?,
        ["0 300"]
    );
    let rows = stage
        .texts(
            "SELECT concat_ws(' ', tenant_id, workload_instance_id, fencing_epoch, payload ->> 'action',
                payload ->> 'amount_minor', payload ->> 'currency', payload ->> 'state', payload ->> 'request_id',
                payload ->> 'fencing_scope_id', pending_forward) FROM audit_outbox ORDER BY outbox_id",
        )
        .await?;
    let expected = [
        "acme a 1 reserve 300 EUR reserved request-k1 payments t",
        "acme a 1 reserve 700 EUR reserved request-k2 payments t",
        "acme a 1 commit 300 EUR committed request-k3 payments t",
        "acme a 1 release 700 EUR released request-k4 payments t",
    ];
    assert_eq!(rows, expected);
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox_global_keys").await?, 4);

    for (key, id, commit, code) in [
        ("k5", &spent.reservation_id, false, "RESERVATION_WRONG_STATE"),
        ("k6", &given_back.reservation_id, true, "RESERVATION_WRONG_STATE"),
        ("k7", &"018f0000-0000-7000-8000-000000000000".to_owned(), true, "RESERVATION_UNKNOWN"),
        ("k8", &"nonsense".to_owned(), true, "INVALID_ARGUMENT"),
    ] {
        let asked = settle(&fence, key, id);
        let answer = if commit { client.commit(asked).await? } else { client.release(asked).await? };
        assert_eq!(outcome(answer)?.expect_err("refused"), code, "{key}");
    }
    for (asked, code) in [
        (reserve(&fence, "k9", 0), "INVALID_ARGUMENT"),
        (reserve(&fence, "", 1), "INVALID_ARGUMENT"),
        (reserve(&fence, "k9", 701), "BUDGET_EXCEEDED"),
    ] {
        assert_eq!(outcome(client.reserve(asked).await?)?.expect_err("refused"), code);
    }
    let mut dollars = reserve(&fence, "k9", 1);
    dollars.currency = "USD".into();
    assert_eq!(outcome(client.reserve(dollars).await?)?.expect_err("refused"), "BUDGET_UNKNOWN");
    assert_eq!(stage.int("SELECT count(*) FROM audit_outbox").await?, 4, "a refusal writes nothing");
    // A key that was only refused is free: the same request may succeed later.
    assert!(outcome(client.reserve(reserve(&fence, "k9", 700)).await?)?.is_ok());
    stage.books_balance().await?;
    let page = "spendguard_ledger_requests_total";
    assert_eq!(ledger.metric(&format!("{page}{{method=\"Commit\",code=\"ok\"}}")).await?, 1.0);
    assert_eq!(ledger.metric(&format!("{page}{{method=\"Reserve\",code=\"BUDGET_EXCEEDED\"}}")).await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_before_the_fence_is_asked() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let old = fence("a", &won(&client, attempt("a")).await?);
    let first = outcome(client.reserve(reserve(&old, "k1", 300)).await?)?;
    let id = first.clone().expect("there is room").reservation_id;
    let committed = outcome(client.commit(settle(&old, "k2", &id)).await?)?;
    let force = lease_spendguard::rpc::ledger::v1::AcquireFencingLeaseRequest { force: true, ..attempt("b") };
    let new = fence("b", &won(&client, force).await?);

    for fence in [&old, &new] {
        assert_eq!(outcome(client.reserve(reserve(fence, "k1", 300)).await?)?, first, "whoever asks");
        assert_eq!(outcome(client.commit(settle(fence, "k2", &id)).await?)?, committed);
        let reused = "IDEMPOTENCY_KEY_REUSED";
        assert_eq!(outcome(client.reserve(reserve(fence, "k1", 301)).await?)?.expect_err("another"), reused);
        assert_eq!(outcome(client.commit(settle(fence, "k1", &id)).await?)?.expect_err("another"), reused);
        assert_eq!(outcome(client.release(settle(fence, "k2", &id)).await?)?.expect_err("another"), reused);
    }
    let fresh = outcome(client.reserve(reserve(&old, "k3", 300)).await?)?;
    assert_eq!(fresh.expect_err("the old term is over"), "FENCING_EPOCH_STALE");
    assert_eq!(stage.int("SELECT count(*) FROM reservation_events").await?, 2);
    stage.books_balance().await
}

#[tokio::test]
async fn the_same_request_many_times_at_once_is_done_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledgers = [stage.ledger().await?, stage.ledger().await?];
    let client = ledgers[0].client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut id = None;
    for (round, done) in ["reserve", "commit"].into_iter().enumerate() {
        let mut requests = tokio::task::JoinSet::new();
        for number in 0..24 {
            let (mut client, fence) = (ledgers[number % 2].client().await?, fence.clone());
            let id: Option<String> = id.clone();
            requests.spawn(async move {
                match id {
                    None => outcome(client.reserve(reserve(&fence, "k1", 1_000)).await?),
                    Some(id) => outcome(client.commit(settle(&fence, "k2", &id)).await?),
                }
            });
        }
        let answers: Vec<_> = requests.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
        let first = answers[0].clone().map_err(|code| anyhow::anyhow!("{done}: {code}"))?;
        assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&first)), "{done}: {answers:?}");
        assert_eq!(stage.int("SELECT count(*) FROM reservation_events").await?, round as i64 + 1);
        id = Some(first.reservation_id);
    }
    stage.books_balance().await
}

#[tokio::test]
async fn an_expired_reservation_is_not_spent() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut brief = reserve(&fence, "k1", 300);
    brief.ttl_seconds = 1;
    let id = outcome(client.reserve(brief).await?)?.expect("there is room").reservation_id;
    lease_testbed::wait_until("it has expired", crate::stage::LIMIT, || async {
        stage
            .int("SELECT count(*) FROM reservations WHERE ttl_expires_at <= clock_timestamp()")
            .await
            .is_ok_and(|n| n == 1)
    })
    .await?;
    let late = outcome(client.commit(settle(&fence, "k2", &id)).await?)?;
    assert_eq!(late.expect_err("too late"), "RESERVATION_EXPIRED");
    assert!(outcome(client.release(settle(&fence, "k3", &id)).await?)?.is_ok(), "it may be given back");
    stage.books_balance().await
}
