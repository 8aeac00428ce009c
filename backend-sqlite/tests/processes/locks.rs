//! Another process has the write lock.

use std::time::Duration;

use lease_core::{Certainty, Change, LeaseBackend};
use lease_sqlite::Sqlite;
use rustix::process::{Signal, kill_process};

use crate::common::*;
use crate::peer::Peer;

pub fn held_too_long() {
    block_on(async {
        let place = Place::new();
        let config = place.config().busy_timeout(Duration::from_millis(100)).unwrap();
        let store = Sqlite::connect(config).await.unwrap();
        let held = acquire(&store, &init(&store).await, "a").await;
        let mut locker = Peer::start("lock", &place.file());
        assert_eq!(locker.hear(), "locked");

        let error = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap_err();
        assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, false), "{error}");
        assert!(error.to_string().contains("busy_timeout"), "{error}");
        assert_eq!(observe(&store).await, held, "reads go on, and show that nothing was applied");
        assert_eq!(place.open().await.history(&name(), 9).await.unwrap().len(), 1, "opening goes on, too");

        locker.tell();
        assert_eq!(locker.hear(), "free");
        assert_eq!(observe(&store).await, held, "nor is it applied late");
        renew(&store, &held).await;
    });
}

pub fn held_briefly() {
    block_on(async {
        let place = Place::new();
        let config = place.config().busy_timeout(Duration::from_secs(60)).unwrap();
        let store = Sqlite::connect(config).await.unwrap();
        let held = acquire(&store, &init(&store).await, "a").await;
        let mut locker = Peer::start("lock", &place.file());
        assert_eq!(locker.hear(), "locked");
        let (lease, record) = (name(), renewed(&held));
        let mut write = store.put_if(&lease, &held, &record, Change::Renew);
        assert!(futures::poll!(&mut write).is_pending());
        locker.tell();
        assert!(matches!(write.await, Ok(lease_core::PutOutcome::Written(_))));
    });
}

pub fn stopped_writer() {
    block_on(async {
        let place = Place::new();
        let config = place.config().busy_timeout(Duration::from_millis(100)).unwrap();
        let store = Sqlite::connect(config).await.unwrap();
        let held = acquire(&store, &init(&store).await, "a").await;
        let mut locker = Peer::start("lock", &place.file());
        assert_eq!(locker.hear(), "locked");
        kill_process(locker.id(), Signal::STOP).unwrap();
        let error = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap_err();
        assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
        // The kernel frees what a killed process held, stopped or not.
        locker.kill();
        renew(&store, &held).await;
    });
}
