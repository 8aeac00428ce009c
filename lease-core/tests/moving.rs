//! M-1 by an elector: which of the two stores it asks whether the move is still to be done.

use std::time::Duration;

use lease_core::{
    Elector, ElectorBuilder, Ended, LeaseBackend, LeaseName, Memory, Record, RunError, WorkloadId,
};

fn name() -> LeaseName {
    LeaseName::new("forwarder").unwrap()
}

fn elector(store: &Memory) -> ElectorBuilder {
    Elector::builder(store.connector(), name(), WorkloadId::new("a").unwrap()).ttl(Duration::from_secs(2))
}

/// Runs until it has led once, or until it may never.
async fn leads_once(builder: ElectorBuilder) -> Result<Ended, RunError<String>> {
    let run = builder.build().unwrap().run_until(std::future::pending(), async |_| Ok(()));
    tokio::time::timeout(Duration::from_secs(20), run).await.expect("it leads or ends")
}

async fn record(store: &Memory) -> Record {
    store.observe(&name()).await.unwrap().record.expect("a register")
}

/// Left from an earlier time, or made by a hook or a hand: were it taken for the moved one, two would lead.
#[tokio::test]
async fn a_move_that_is_not_done_yet_asks_the_old_store_although_the_new_one_has_an_open_register() {
    let (old, new) = (Memory::new(), Memory::new());
    leads_once(elector(&old)).await.unwrap();
    leads_once(elector(&new)).await.unwrap();
    let before = (record(&old).await, record(&new).await);
    let refused = leads_once(elector(&new).migrate_from(old.connector()).not_moved_yet()).await;
    let refused = refused.expect_err("it is open in both").to_string();
    assert!(refused.contains("two may lead") && refused.contains("open in two stores"), "{refused}");
    assert_eq!((record(&old).await, record(&new).await), before, "nobody has written");

    // Else an open register shows that the move is done, and the old store may be gone.
    let gone = || async { Err(lease_core::BackendError::refused("the old store is gone")) };
    leads_once(elector(&new).migrate_from(gone)).await.unwrap();
    let asked = leads_once(elector(&new).migrate_from(gone).not_moved_yet()).await;
    assert!(asked.expect_err("it must ask").to_string().contains("the old store is gone"));
}
