//! W-1: a lease is for one work, and nobody with another one ever takes it.

use std::sync::Arc;
use std::time::Duration;

use lease_core::migrate::{MayMove, Move};
use lease_core::{
    Clock, Connector, Elector, ElectorBuilder, Ended, LeaseBackend, LeaseName, Memory, Record, RunError,
    WorkloadId, admin,
};

const TTL: Duration = Duration::from_secs(2);

fn name() -> LeaseName {
    LeaseName::new("forwarder").unwrap()
}

fn elector(store: &Memory, work: Option<&str>) -> ElectorBuilder {
    let builder = Elector::builder(store.connector(), name(), WorkloadId::new("a").unwrap()).ttl(TTL);
    match work {
        Some(work) => builder.work(work),
        None => builder,
    }
}

/// Runs until it has led once, or until it may never.
async fn leads_once(builder: ElectorBuilder) -> Result<Ended, RunError<String>> {
    let run = builder.build().unwrap().run_until(std::future::pending(), async |_| Ok(()));
    tokio::time::timeout(Duration::from_secs(20), run).await.expect("it leads or ends")
}

async fn record(store: &Memory) -> Record {
    store.observe(&name()).await.unwrap().record.expect("a register")
}

#[tokio::test]
async fn the_first_acquisition_says_what_the_lease_is_for_and_others_end_with_the_remedy() {
    let store = Memory::new();
    leads_once(elector(&store, None)).await.unwrap();
    assert_eq!(record(&store).await.work(), None, "whoever names no work says nothing");
    leads_once(elector(&store, Some("outbox/1"))).await.unwrap();
    let left = record(&store).await;
    assert_eq!(left.work(), Some("outbox/1"));

    for (work, says) in [(Some("outbox/2"), "this is outbox/2"), (None, "this candidate names none")] {
        let refused = leads_once(elector(&store, work)).await.expect_err("it is others' lease").to_string();
        for part in ["lease forwarder", "its work is outbox/1", says, "leaseName", "leasehold forget-work"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    assert_eq!(record(&store).await, left, "nobody has written");
    leads_once(elector(&store, Some("outbox/1"))).await.unwrap();
}

#[tokio::test]
async fn a_forgotten_work_frees_the_name_and_ends_no_term() {
    let store = Memory::new();
    let (began, mut begun) = tokio::sync::mpsc::channel(1);
    let holder = elector(&store, Some("outbox/1")).build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let run = tokio::spawn(holder.run_until(
        async {
            let _ = stopped.await;
        },
        move |leadership| {
            let began = began.clone();
            async move {
                began.send(leadership.clone()).await.unwrap();
                leadership.stop_requested().await;
                Ok::<_, String>(())
            }
        },
    ));
    let leadership = begun.recv().await.unwrap();
    let (forgotten, written) = admin::forget_work(&store, &name()).await.unwrap();
    assert_eq!(forgotten.as_deref(), Some("outbox/1"));
    assert_eq!(written.record.unwrap().term(), Some(leadership.term()));
    assert!(leadership.is_leader_now());
    stop.send(()).unwrap();
    assert_eq!(run.await.unwrap().unwrap(), Ended::Shutdown);
    leads_once(elector(&store, Some("outbox/2"))).await.unwrap();
    assert_eq!(record(&store).await.work(), Some("outbox/2"));
}

#[tokio::test]
async fn a_register_that_its_holder_makes_anew_is_for_the_same_work() {
    let store = Memory::new().losing_registers();
    let new = admin::Init { new: true, above: 0, max_ttl: TTL };
    admin::init(&store, &name(), new).await.unwrap();
    let (began, mut begun) = tokio::sync::mpsc::channel(4);
    let holder = elector(&store, Some("outbox/1")).build().unwrap();
    let work = move |leadership: lease_core::Leadership| {
        let began = began.clone();
        async move {
            began.send(()).await.unwrap();
            leadership.stop_requested().await;
            Ok::<_, String>(())
        }
    };
    let run = tokio::spawn(async move { holder.run_until(std::future::pending(), work).await });
    begun.recv().await.unwrap();
    store.delete(&name());
    let made = async {
        loop {
            match store.observe(&name()).await.unwrap().record {
                Some(made) => break made,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let made = tokio::time::timeout(TTL, made).await.expect("it heals before its deadline");
    assert_eq!((made.work(), made.holder.as_str()), (Some("outbox/1"), ""), "{made:?}");
    run.abort();
}

#[tokio::test]
async fn a_move_carries_the_work_and_a_fleet_moves_no_others_lease() {
    let (old, new) = (Memory::new(), Memory::new().losing_registers());
    leads_once(elector(&old, Some("outbox/1"))).await.unwrap();
    let left = record(&old).await;
    let refused = leads_once(elector(&new, Some("outbox/2")).migrate_from(old.connector())).await;
    let refused = refused.expect_err("it is others' lease").to_string();
    assert!(refused.contains("its work is outbox/1, and this is outbox/2"), "{refused}");
    assert_eq!(record(&old).await, left, "it stays where it is");

    leads_once(elector(&new, Some("outbox/1")).migrate_from(old.connector())).await.unwrap();
    assert_eq!(record(&new).await.work(), Some("outbox/1"));
    assert!(record(&old).await.sealed.is_some());

    // An operator moves any lease, and the way back is the same.
    let (from, to): (Arc<dyn LeaseBackend>, Arc<dyn LeaseBackend>) =
        (new.connector().connect().await.unwrap(), old.connector().connect().await.unwrap());
    let back = Move {
        name: name(),
        from,
        to,
        max_ttl: TTL,
        poll_every: Duration::from_millis(20),
        call_limit: TTL,
        by: "ops".into(),
        may_move: MayMove::Any,
    };
    back.run(&Clock::boot(), |_| {}).await.unwrap();
    let opened = record(&old).await;
    assert!(opened.sealed.is_none());
    assert_eq!(opened.work(), Some("outbox/1"));
}
