//! Several processes open the file.

use std::fs;

use lease_core::LeaseBackend;

use crate::common::*;
use crate::peer::Peer;

const MANY: usize = 24;

pub fn new_file() {
    let place = Place::new();
    race(&place);
}

pub fn empty_file() {
    let place = Place::new();
    fs::File::create(place.file()).unwrap();
    race(&place);
}

fn race(place: &Place) {
    let mut peers: Vec<_> = (0..MANY).map(|_| Peer::start("open", &place.file())).collect();
    peers.iter_mut().for_each(|peer| assert_eq!(peer.hear(), "ready"));
    peers.iter_mut().for_each(Peer::tell);
    let mut answers: Vec<_> = peers.iter_mut().map(Peer::hear).collect();
    answers.sort();
    let mut expected = vec!["found"; MANY];
    expected[0] = "created";
    assert_eq!(answers, expected);
    block_on(async {
        let store = place.open().await;
        assert_eq!(store.list("").await.unwrap().len(), 1);
        let mode: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut place.shell().await).await.unwrap();
        assert_eq!(mode, "wal");
    });
}

/// Somebody tidies up `*-wal` and `*-shm` under a holder; a second process then opens what is left.
pub fn missing_log() {
    let place = Place::new();
    let mut holder = Peer::start("hold", &place.file());
    assert_eq!(holder.hear(), "held");
    for beside in ["leases.sqlite-wal", "leases.sqlite-shm"] {
        fs::remove_file(place.folder().join(beside)).unwrap();
    }
    block_on(async {
        let second = place.open().await;
        assert_eq!(observe(&second).await.record, None, "what was in the log is lost to it");
        acquire(&second, &init(&second).await, "second").await;
    });
    holder.tell();
    let answer = holder.hear();
    assert!(answer.starts_with("failed: NotApplied"), "{answer}");
    assert!(answer.contains("deleted, moved or replaced"), "so there are not two holders for ever: {answer}");
}
