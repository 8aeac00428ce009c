//! The register on a real server: compare, write, floor, history, listing.

use crate::common::*;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{
    Certainty, Change, Grant, HistoryEvent, LeaseBackend, Lineage, PutOutcome, Request, RequestId, WallTime,
};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::wait_until;

#[tokio::test]
async fn shows_a_record_exactly_as_it_was_written() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("every-field.of-it");
    let absent = store.backend.observe(&lease).await?;
    assert_eq!(absent.record, None);

    let mut full = writes::init(&absent, TTL, 7, Some(Grant::random()), &Fresh::random());
    full.holder = "pod-1'; DROP TABLE x; --\u{1F980}".to_owned();
    full.region = "eu-west".to_owned();
    full.note = "a\nnote".to_owned();
    full.beat = 3;
    full.preemptible = true;
    full.sealed = Some("etcd://elsewhere".to_owned());
    full.request = Some(Request { id: RequestId::random(), grant: Grant(u128::MAX), by: "ops".to_owned() });
    full.answered = Some(RequestId(0));
    full.acquired_at = WallTime(-1);
    full.renewed_at = WallTime(1_700_000_000_123);
    full.expires_at = WallTime(253_402_300_799_000);
    full.extra.insert("later_version".to_owned(), serde_json::json!({ "deep": [1, "two", null] }));
    let wrote = written(store.backend.put_if(&lease, &absent, &full, Change::Init).await?);
    assert_eq!(wrote.record.as_ref(), Some(&full));

    let seen = store.backend.observe(&lease).await?;
    assert_eq!(seen.record, Some(full));
    assert_eq!((seen.lineage.clone(), seen.floor), (wrote.lineage, wrote.floor));
    Ok(())
}

#[tokio::test]
async fn writes_only_on_the_tag_that_was_seen_and_shows_what_it_found_instead() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("compare");
    let free = init(&store.backend, &lease).await?;
    let held = acquire(&store.backend, &lease, &free, "a").await?;
    for (record, change) in [
        (acquired(&free, "b"), Change::Acquire),
        (renewed(&free), Change::Renew),
        (released(&free), Change::Release),
        (writes::revoke(&free, record(&free), 0, false, "", &Fresh::random()), Change::Revoke),
        (writes::request(record(&free), Grant(1), RequestId(1), "", &Fresh::random()), Change::Request),
        (record(&free).clone(), Change::Seal),
    ] {
        let found = conflict(store.backend.put_if(&lease, &free, &record, change).await?);
        assert_eq!(found.record, held.record, "{change:?}");
    }
    let absent = store.backend.observe(&name("other")).await?;
    let found = conflict(store.backend.put_if(&lease, &absent, record(&free), Change::Init).await?);
    assert_eq!(found.record, held.record, "an absent register was expected");
    let found = conflict(store.backend.put_if(&name("other"), &free, &renewed(&free), Change::Renew).await?);
    assert_eq!(found.record, None, "a register was expected, and there is none");
    Ok(())
}

#[tokio::test]
async fn one_of_many_simultaneous_acquisitions_is_written() -> anyhow::Result<()> {
    let store = std::sync::Arc::new(store().await?);
    let lease = name("race");
    let free = init(&store.backend, &lease).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (store, lease, free) = (store.clone(), lease.clone(), free.clone());
        tasks.spawn(async move {
            let mine = acquired(&free, &format!("pod-{n}"));
            store.backend.put_if(&lease, &free, &mine, Change::Acquire).await.map(|outcome| (mine, outcome))
        });
    }
    let mut winners = Vec::new();
    let mut found = Vec::new();
    while let Some(task) = tasks.join_next().await {
        match task?? {
            (mine, PutOutcome::Written(_)) => winners.push(mine),
            (_, PutOutcome::Conflict(seen)) => found.push(seen.record),
        }
    }
    assert_eq!((winners.len(), found.len()), (1, 19));
    assert!(found.iter().all(|record| record.as_ref() == winners.first()), "each saw the winner");
    assert_eq!(store.psql("SELECT count(*) FROM {s}.coordination_lease_history").await?, "1");
    Ok(())
}

#[tokio::test]
async fn the_floor_is_never_below_an_epoch_made_from_it() -> anyhow::Result<()> {
    let store = store().await?;
    let (a, b) = (name("a"), name("b"));
    let untouched = store.backend.observe(&a).await?;
    assert_eq!(untouched.floor >> 46, 1, "timeline 1");
    let mut seen = [init(&store.backend, &a).await?, init(&store.backend, &b).await?];
    let mut greatest = 0;
    for round in 0..5 {
        for (lease, seen) in [&a, &b].into_iter().zip(&mut seen) {
            // On the same observations, so that both make their epochs from an old floor.
            let held = acquire(&store.backend, lease, seen, "x").await?;
            let epoch = record(&held).epoch;
            greatest = epoch.max(greatest);
            assert!(held.floor >= epoch, "round {round}: {} < {epoch}", held.floor);
            *seen = release(&store.backend, lease, &held).await?;
        }
        assert!(store.backend.observe(&name("none")).await?.floor >= greatest);
    }
    let absent = store.backend.observe(&name("c")).await?;
    let closed = writes::init(&absent, TTL, 0, Some(Grant(1)), &Fresh::random());
    let made = written(store.backend.put_if(&name("c"), &absent, &closed, Change::Init).await?);
    assert!(made.floor >= record(&made).epoch);
    let revoked = writes::revoke(&made, record(&made), 0, false, "", &Fresh::random());
    let revoked = written(store.backend.put_if(&name("c"), &made, &revoked, Change::Revoke).await?);
    assert!(revoked.floor >= record(&revoked).epoch);
    Ok(())
}

#[tokio::test]
async fn epochs_rise_after_an_administrators_deletion() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("deleted");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    let deletion =
        "BEGIN; SET LOCAL leasehold.allow_delete = on; DELETE FROM {s}.coordination_leases; COMMIT";
    store.psql(deletion).await?;
    let again = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    assert!(record(&again).epoch > record(&held).epoch);
    Ok(())
}

#[tokio::test]
async fn each_change_of_holder_leaves_one_history_row_and_a_beat_none() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("history");
    let free = init(&store.backend, &lease).await?;
    let mut seen = acquire(&store.backend, &lease, &free, "a").await?;
    for _ in 0..3 {
        seen = renew(&store.backend, &lease, &seen).await?;
    }
    seen = release(&store.backend, &lease, &seen).await?;
    seen = acquire(&store.backend, &lease, &seen, "a").await?;
    seen = acquire(&store.backend, &lease, &seen, "b").await?;
    let grant = record(&seen).grant.expect("held");
    let asked = writes::request(record(&seen), grant, RequestId::random(), "ops", &Fresh::random());
    seen = written(store.backend.put_if(&lease, &seen, &asked, Change::Request).await?);
    seen = release(&store.backend, &lease, &seen).await?;
    let revoked = writes::revoke(&seen, record(&seen), 0, true, "drill", &Fresh::random());
    seen = written(store.backend.put_if(&lease, &seen, &revoked, Change::Revoke).await?);
    let mut sealed = record(&seen).clone();
    (sealed.tag, sealed.sealed) = (Fresh::random().tag, Some("etcd".to_owned()));
    written(store.backend.put_if(&lease, &seen, &sealed, Change::Seal).await?);

    let rows = store.backend.history(&lease, 100).await?;
    let events: Vec<_> = rows.iter().map(|row| (row.event_type, row.holder_workload_id.as_str())).collect();
    use HistoryEvent::*;
    let expected = [
        (Acquired, "a"),
        (Released, "a"),
        (Acquired, "a"),
        (TakenOver, "b"),
        (SteppedDown, "b"),
        (Revoked, "b"),
        (Sealed, "b"),
    ];
    assert_eq!(events, expected);
    assert!(rows.is_sorted_by(|a, b| a.sequence < b.sequence && a.epoch <= b.epoch));
    assert_eq!(rows.iter().map(|row| row.transition_count).collect::<Vec<_>>(), [1, 1, 2, 3, 3, 4, 4]);
    assert_eq!(rows[5].note, "drill");
    let newest = store.backend.history(&lease, 2).await?;
    assert_eq!(newest, rows[5..]);
    Ok(())
}

#[tokio::test]
async fn a_conflict_leaves_no_history_row_and_no_gap_in_the_floor() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("quiet");
    let free = init(&store.backend, &lease).await?;
    let held = acquire(&store.backend, &lease, &free, "a").await?;
    for _ in 0..3 {
        let found = store.backend.put_if(&lease, &free, &acquired(&free, "b"), Change::Acquire).await?;
        assert_eq!(conflict(found).floor, held.floor);
    }
    assert_eq!(store.backend.history(&lease, 10).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn lists_by_prefix_and_takes_wildcards_for_plain_characters() -> anyhow::Result<()> {
    let store = store().await?;
    for lease in ["a.1", "a.2", "ab", "b"] {
        init(&store.backend, &name(lease)).await?;
    }
    let names = async |prefix: &str| -> anyhow::Result<Vec<String>> {
        Ok(store.backend.list(prefix).await?.into_iter().map(|(name, _)| name.to_string()).collect())
    };
    assert_eq!(names("a.").await?, ["a.1", "a.2"]);
    assert_eq!(names("").await?, ["a.1", "a.2", "ab", "b"]);
    assert_eq!(names("%").await?, [""; 0]);
    let (_, listed) = store.backend.list("b").await?.remove(0);
    assert_eq!(listed?, store.backend.observe(&name("b")).await?);
    Ok(())
}

#[tokio::test]
async fn numbers_that_do_not_fit_are_refused_and_nothing_is_written() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("overflow");
    let free = init(&store.backend, &lease).await?;
    let mut high = acquired(&free, "a");
    high.epoch = i64::MAX as u64 + 1;
    let error = store.backend.put_if(&lease, &free, &high, Change::Acquire).await.unwrap_err();
    assert!(error.refused && error.to_string().contains("epoch = 9223372036854775808"), "{error}");
    let mut nul = acquired(&free, "nul\0");
    nul.epoch = i64::MAX as u64;
    let error = store.backend.put_if(&lease, &free, &nul, Change::Acquire).await.unwrap_err();
    assert!(error.refused && error.certainty == lease_core::Certainty::NotApplied, "{error}");
    assert_eq!(store.backend.observe(&lease).await?.record, free.record);

    nul.holder = "fits".to_owned();
    let held = written(store.backend.put_if(&lease, &free, &nul, Change::Acquire).await?);
    let next = writes::acquire(&held, record(&held), &candidate("b"), Grant(1), &Fresh::random());
    let error = store.backend.put_if(&lease, &held, &next, Change::Acquire).await.unwrap_err();
    assert!(error.refused, "{error}");
    Ok(())
}

#[tokio::test]
async fn does_not_write_on_an_observation_of_another_lineage() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("lineage");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    let (system_id, timeline) = held.lineage.0.split_once('/').expect("system identifier / timeline");
    for other in [format!("{system_id}/00000002"), format!("1{system_id}/{timeline}"), String::new()] {
        let mut elsewhere = held.clone();
        elsewhere.lineage = Lineage(other);
        for (record, change) in [
            (renewed(&elsewhere), Change::Renew),
            (released(&elsewhere), Change::Release),
            (acquired(&elsewhere, "b"), Change::Acquire),
        ] {
            let found = conflict(store.backend.put_if(&lease, &elsewhere, &record, change).await?);
            assert_eq!(found, held, "{change:?} on {:?}", elsewhere.lineage);
        }
        let mut absent = store.backend.observe(&name("absent")).await?;
        absent.lineage = elsewhere.lineage;
        let new = writes::init(&absent, TTL, 0, None, &Fresh::random());
        let found = store.backend.put_if(&name("absent"), &absent, &new, Change::Init).await?;
        assert_eq!(conflict(found).record, None);
    }
    Ok(())
}

#[tokio::test]
async fn epochs_rise_after_a_move_to_a_store_with_a_lower_floor() -> anyhow::Result<()> {
    // As after pg_dump or pg_upgrade from a third timeline: the record knows more than the floor.
    let store = store().await?;
    let lease = name("moved");
    let absent = store.backend.observe(&lease).await?;
    let old = writes::init(&absent, TTL, 3 << 46, Some(Grant(1)), &Fresh::random());
    let old = written(store.backend.put_if(&lease, &absent, &old, Change::Init).await?);
    let mut held = acquire(&store.backend, &lease, &old, "a").await?;
    assert!(record(&held).epoch > record(&old).epoch && old.floor < record(&old).epoch);
    let before = record(&held).epoch;
    held = acquire(&store.backend, &lease, &held, "b").await?;
    assert!(record(&held).epoch > before);
    Ok(())
}

#[tokio::test]
async fn an_error_at_commit_is_not_taken_for_success() -> anyhow::Result<()> {
    // The row of RETURNING has come by then, and the statement's completion too.
    let store = store().await?;
    let lease = name("deferred");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    store
        .psql(
            "CREATE FUNCTION {s}.refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'not at commit'; END $$; \
             CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON {s}.coordination_leases \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {s}.refuse()",
        )
        .await?;
    for (record, change) in [(renewed(&held), Change::Renew), (acquired(&held, "b"), Change::Acquire)] {
        let error = store.backend.put_if(&lease, &held, &record, change).await.unwrap_err();
        assert_eq!(error.certainty, Certainty::NotApplied, "{change:?}: {error}");
    }
    store.psql("DROP TRIGGER late ON {s}.coordination_leases").await?;
    assert_eq!(store.backend.observe(&lease).await?.record, held.record);
    Ok(())
}

#[tokio::test]
async fn a_serialization_failure_is_not_applied() -> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("serialized");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    let fails = "CREATE FUNCTION {s}.fails() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = 'serialization_failure'; END $$;
        CREATE TRIGGER fails BEFORE UPDATE ON {s}.coordination_leases FOR EACH ROW EXECUTE FUNCTION {s}.fails()";
    store.psql(fails).await?;
    let error = store.backend.put_if(&lease, &held, &renewed(&held), Change::Renew).await.unwrap_err();
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, false), "{error}");
    store.psql("DROP TRIGGER fails ON {s}.coordination_leases").await?;
    renew(&store.backend, &lease, &store.backend.observe(&lease).await?).await?;
    Ok(())
}

/// A default of the role or the database is meant for other programs: it would fail beats that wait for each other.
#[tokio::test]
async fn a_beat_that_waited_for_another_write_of_its_row_is_judged_by_what_is_there_then()
-> anyhow::Result<()> {
    let store = store().await?;
    let lease = name("serializable");
    let held = acquire(&store.backend, &lease, &init(&store.backend, &lease).await?, "a").await?;
    let level = "options=-c%20default_transaction_isolation%3Dserializable";
    let config = PostgresConfig::new(&format!("{}?{level}", store.server.url()))?.schema(&store.schema)?;
    let strict = Postgres::connect(config).await?;
    let mut other = session(&store.server.url()).await?;
    let change = format!("BEGIN; UPDATE {}.coordination_leases SET note = 'x'", store.schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut other).await?;
    let beat = renewed(&held);
    let commit = async {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{s}%'";
        wait_until("the beat waits", LIMIT, async || store.psql(waiting).await.is_ok_and(|n| n == "1"))
            .await?;
        anyhow::Ok(sqlx::raw_sql("COMMIT").execute(&mut other).await?)
    };
    let (outcome, committed) = tokio::join!(strict.put_if(&lease, &held, &beat, Change::Renew), commit);
    committed?;
    assert!(matches!(outcome?, PutOutcome::Written(_)));
    Ok(())
}
