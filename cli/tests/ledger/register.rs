//! A scope as a register: what electors write, and what the ledger's other calls do to it. The conformance suite
//! judges the register itself (`tests/scope`).

use anyhow::Context;
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Lineage, Observation, Record, Revocation, Term};
use lease_spendguard::ledger::{self, ScopeLowering};
use lease_spendguard::rpc::ledger::v1;
use lease_spendguard::rpc::ledger::v1::ledger_client::LedgerClient;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use tonic::transport::Channel;
use v1::observe_fencing_scope_response::Outcome as Observed;
use v1::put_fencing_scope_response::Outcome as Put;

use crate::stage::{Ledger, SCOPE, Stage, TENANT, attempt, denied, fence, outcome, refused, reserve, won};

type Client = LedgerClient<Channel>;

async fn observe(client: &Client) -> anyhow::Result<Record> {
    let asked = v1::ObserveFencingScopeRequest { fencing_scope_id: SCOPE.into(), tenant_id: TENANT.into() };
    match client.clone().observe_fencing_scope(asked).await?.into_inner().outcome {
        Some(Observed::Scope(scope)) => Ok(serde_json::from_str(&scope.record)?),
        other => anyhow::bail!("not observed: {other:?}"),
    }
}

fn write(expected: &Record, record: &Record, change: &str) -> v1::PutFencingScopeRequest {
    v1::PutFencingScopeRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        expected_tag: expected.tag.to_bytes().to_vec(),
        record: serde_json::to_string(record).expect("plain data"),
        change: change.into(),
    }
}

async fn put(client: &Client, asked: v1::PutFencingScopeRequest) -> anyhow::Result<Put> {
    client.clone().put_fencing_scope(asked).await?.into_inner().outcome.context("no outcome")
}

fn seen(record: &Record) -> Observation {
    let lineage = Lineage("ledger".into());
    Observation { record: Some(record.clone()), lineage, floor: record.epoch, version: String::new() }
}

/// A term of `holder` on the register as it was read.
fn acquisition(before: &Record, holder: &str) -> Record {
    let ttl = Duration::from_secs(60);
    let who = Candidate {
        holder: holder.into(),
        region: "".into(),
        ttl,
        max_ttl: ttl,
        preemptible: true,
        work: None,
    };
    let fresh = Fresh::random();
    writes::acquire(&seen(before), before, &who, fresh.grant, &fresh)
}

fn written(put: Put, action: &str) {
    assert!(matches!(&put, Put::Written(written) if written.action == action), "{action}: {put:?}");
}

async fn started() -> anyhow::Result<(Stage, Ledger, Client)> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger_with(&[]).await?;
    let client = ledger.client().await?;
    Ok((stage, ledger, client))
}

#[tokio::test]
async fn electors_and_other_clients_see_each_others_changes() -> anyhow::Result<()> {
    let (stage, _ledger, client) = started().await?;
    let free = observe(&client).await?;
    assert_eq!((free.grant, free.epoch, free.transitions), (None, 0, 0));
    // Acquired, renewed and released by the calls that know no register.
    let term = won(&client, attempt("a")).await?;
    let held = observe(&client).await?;
    assert_eq!(held.grant.map(|grant| grant.to_bytes().to_vec()), Some(term.grant.clone()));
    assert_eq!((held.epoch, held.beat, held.holder.as_str(), held.ttl_ms), (1, 0, "a", 3_600_000));
    won(&client, v1::AcquireFencingLeaseRequest { grant: term.grant.clone(), ..attempt("a") }).await?;
    let renewed = observe(&client).await?;
    assert_eq!((renewed.grant, renewed.beat, renewed.transitions), (held.grant, 1, 1));
    assert_ne!(renewed.tag, held.tag, "an elector's write on the old one must conflict");
    let late = put(&client, write(&held, &acquisition(&held, "b"), "acquire")).await?;
    assert!(matches!(late, Put::Conflict(_)), "{late:?}");

    // An elector goes on with the same term, and another one takes it; each effect is fenced by the register's term.
    let beat = writes::renew(&seen(&renewed), &renewed, &Fresh::random());
    written(put(&client, write(&renewed, &beat, "renew")).await?, "renew");
    let own = fence("a", &term);
    assert!(outcome(client.clone().reserve(reserve(&own, "own", 1)).await?)?.is_ok());
    let taken = acquisition(&beat, "b");
    written(put(&client, write(&beat, &taken, "acquire")).await?, "takeover");
    let stale = outcome(client.clone().reserve(reserve(&own, "late", 1)).await?)?;
    assert_eq!(stale.expect_err("a's term is over"), "FENCING_EPOCH_STALE");
    let renewal = v1::AcquireFencingLeaseRequest { grant: term.grant, ..attempt("a") };
    assert_eq!(refused(&client, renewal).await?, "FENCING_EPOCH_STALE");
    assert_eq!(denied(&client, attempt("c")).await?.current_holder_instance_id, "b");
    let own = v1::Fence {
        workload_instance_id: "b".into(),
        epoch: taken.epoch,
        grant: taken.grant.expect("held").to_bytes().to_vec(),
        ..own
    };
    assert!(outcome(client.clone().reserve(reserve(&own, "next", 1)).await?)?.is_ok());
    client.clone().release_fencing_lease(v1::ReleaseFencingLeaseRequest { fence: Some(own) }).await?;
    let free = observe(&client).await?;
    assert_eq!((free.grant, free.epoch, free.holder.as_str()), (None, 2, "b"));
    written(put(&client, write(&free, &acquisition(&free, "b"), "acquire")).await?, "acquire");
    let told = "SELECT action || ' ' || new_epoch || ' ' || coalesce(owner_instance_id, '-') FROM fencing_scope_events ORDER BY event_id";
    assert_eq!(stage.texts(told).await?, ["acquire 1 a", "promote 2 b", "release 2 -", "acquire 3 b"]);

    // A statement by hand is a change like any other.
    let before = observe(&client).await?;
    sqlx::query("UPDATE fencing_scopes SET current_epoch = current_epoch + 1").execute(&stage.pool).await?;
    let after = observe(&client).await?;
    assert!(after.epoch == before.epoch + 1 && after.tag != before.tag, "{after:?}");
    Ok(())
}

#[tokio::test]
async fn a_write_that_cannot_be_is_refused() -> anyhow::Result<()> {
    let (_stage, _ledger, client) = started().await?;
    let free = observe(&client).await?;
    let held = acquisition(&free, "a");
    written(put(&client, write(&free, &held, "acquire")).await?, "acquire");
    let next = acquisition(&held, "b");
    let good = write(&held, &next, "acquire");
    let with = |record: Record| write(&held, &record, "acquire");
    for (asked, code) in [
        (with(Record { epoch: held.epoch, ..next.clone() }), "INVALID_ARGUMENT"),
        (with(Record { epoch: 0, grant: None, ..next.clone() }), "INVALID_ARGUMENT"),
        (with(Record { epoch: u64::MAX, ..next.clone() }), "INVALID_ARGUMENT"),
        (with(Record { epoch: Term::MAX_EPOCH + 1, ..next.clone() }), "INVALID_ARGUMENT"),
        (with(Record { ttl_ms: u64::MAX, ..next.clone() }), "INVALID_ARGUMENT"),
        (with(Record { holder: "a/b".into(), ..next.clone() }), "INVALID_ARGUMENT"),
        (v1::PutFencingScopeRequest { record: "{}".into(), ..good.clone() }, "INVALID_ARGUMENT"),
        (v1::PutFencingScopeRequest { change: "take".into(), ..good.clone() }, "INVALID_ARGUMENT"),
        (v1::PutFencingScopeRequest { expected_tag: vec![1], ..good.clone() }, "INVALID_ARGUMENT"),
        (v1::PutFencingScopeRequest { tenant_id: "other".into(), ..good.clone() }, "TENANT_MISMATCH"),
        (
            v1::PutFencingScopeRequest { fencing_scope_id: "other".into(), ..good.clone() },
            "FENCING_SCOPE_UNKNOWN",
        ),
    ] {
        match put(&client, asked.clone()).await? {
            Put::Error(error) => assert_eq!(error.code, code, "{asked:?}: {error:?}"),
            other => anyhow::bail!("{asked:?}: {other:?}"),
        }
        assert_eq!(observe(&client).await?, held, "{asked:?}");
    }
    written(put(&client, good).await?, "takeover");
    Ok(())
}

/// An epoch is never taken above the ceiling, and an operator's repair brings the scope back.
#[tokio::test]
async fn a_scope_at_the_ceiling_of_epochs_is_refused_in_words_until_it_is_repaired() -> anyhow::Result<()> {
    let (stage, _ledger, client) = started().await?;
    let set = async |epoch: u64| {
        let set = "UPDATE fencing_scopes SET current_epoch = $1 WHERE fencing_scope_id = $2";
        sqlx::query(set).bind(epoch as i64).bind(SCOPE).execute(&stage.pool).await
    };
    set(Term::MAX_EPOCH).await?;
    assert_eq!(refused(&client, attempt("a")).await?, "FENCING_EPOCH_ABOVE_CEILING");
    let exhausted = observe(&client).await?;
    let above = put(&client, write(&exhausted, &acquisition(&exhausted, "a"), "acquire")).await?;
    let Put::Error(error) = above else { anyhow::bail!("{above:?}") };
    assert!(error.message.contains(&Term::MAX_EPOCH.to_string()), "{error:?}");
    let options: PgConnectOptions = stage.url.parse()?;
    let lower = async |epoch| {
        let how = ScopeLowering { scope: SCOPE, tenant: TENANT, epoch, by: "op@desk" };
        ledger::lower_scope(&options, &how).await
    };
    assert_eq!(lower(41).await?, Term::MAX_EPOCH as i64);
    assert_eq!(won(&client, attempt("a")).await?.epoch, 42);
    let told = stage.texts("SELECT note FROM fencing_scope_events WHERE old_epoch > new_epoch").await?;
    assert_eq!(told, ["epoch set back by op@desk"]);
    set(1000).await?;
    let below = lower(41).await.expect_err("42 was issued").to_string();
    assert!(below.contains("epoch 42 was issued"), "{below}");
    assert_eq!(lower(42).await?, 1000);
    assert!(observe(&client).await?.grant.is_none(), "whatever term there is ends");
    assert_eq!(won(&client, attempt("b")).await?.epoch, 43);
    assert!(lower(43).await.is_err(), "it is only set back");
    Ok(())
}

#[tokio::test]
async fn a_revocation_is_shown_in_the_register_and_names_who_holds_off() -> anyhow::Result<()> {
    let (_stage, _ledger, client) = started().await?;
    won(&client, attempt("a")).await?;
    let before = observe(&client).await?;
    let asked = v1::RevokeFencingLeaseRequest {
        fencing_scope_id: SCOPE.into(),
        tenant_id: TENANT.into(),
        by: "ops".into(),
    };
    client.clone().revoke_fencing_lease(asked).await?;
    let revoked = observe(&client).await?;
    let revocation = Revocation::of(&revoked).context("no revocation is shown")?;
    assert!(revocation.ended_the_last_term(&revoked) && revoked.tag != before.tag, "{revoked:?}");
    assert_eq!((revoked.grant, revocation.except.as_deref()), (None, Some("a")));
    Ok(())
}
