//! The disk fails when a commit is to be made durable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, LeaseName, Observation};
use lease_sqlite::{Sqlite, SqliteConfig};

use crate::common::*;
use crate::peer::{Peer, say, wait_for_word};

/// While the file exists that `FAIL_SYNC` names, no file can be made durable; while that of `HANG_SYNC` exists, the
/// attempt takes for ever.
const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int exists(const char *name) { return access(getenv(name), F_OK) == 0; }
static long sync_by(long call, int fd) {
    while (exists("HANG_SYNC")) usleep(1000);
    if (!exists("FAIL_SYNC")) return syscall(call, fd);
    errno = EIO;
    return -1;
}
int fsync(int fd) { return sync_by(SYS_fsync, fd); }
int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
"#;

/// Starts `role` with a disk that fails on request.
fn start(role: &str, place: &Place) -> (Peer, PathBuf, PathBuf) {
    let (source, shim) = (place.folder().join("shim.c"), place.folder().join("shim.so"));
    fs::write(&source, SHIM).unwrap();
    // SQLite is built from source by a C compiler, so there is one.
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status();
    assert!(built.expect("a C compiler, as cc").success());
    let (failing, hanging) = (place.folder().join("failing"), place.folder().join("hanging"));
    let environment: [(&str, &Path); 3] =
        [("LD_PRELOAD", &shim), ("FAIL_SYNC", &failing), ("HANG_SYNC", &hanging)];
    (Peer::start_with(role, &place.file(), &environment), failing, hanging)
}

/// Nobody sees the write whose fsync failed, and yet the log holds it: after a crash it is there.
pub fn crash_after_a_failed_sync() {
    let place = Place::new();
    let (mut peer, failing, _) = start("failing disk", &place);
    assert_eq!(peer.hear(), "held");
    fs::write(&failing, "").unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "Unknown");
    assert_eq!(peer.hear(), "seen: beat 0");
    peer.kill();
    let store = block_on(place.open());
    let recovered = block_on(observe(&store)).record.unwrap().beat;
    assert_eq!(recovered, 1, "so certainty would have been a lie");
}

/// If the disk recovers instead, the next write goes over the one that failed.
pub fn recovery_after_a_failed_sync() {
    let place = Place::new();
    let (mut peer, failing, _) = start("failing disk", &place);
    assert_eq!(peer.hear(), "held");
    fs::write(&failing, "").unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "Unknown");
    assert_eq!(peer.hear(), "seen: beat 0");
    fs::remove_file(&failing).unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "renewed: beat 1");
    peer.kill();
    let store = block_on(place.open());
    assert_eq!(block_on(observe(&store)).record.unwrap().note, "second attempt");
}

/// A power cut ends all processes of the host: what it may take with it, a beat, need not wait for the disk; what it
/// may not, an epoch or a freedom, must.
pub fn only_beats_go_on() {
    let place = Place::new();
    let (mut peer, failing, hanging) = start("beats", &place);
    assert_eq!(peer.hear(), "held");
    fs::write(&hanging, "").unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "renewed: beat 100");
    fs::write(&failing, "").unwrap();
    fs::remove_file(&hanging).unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "Release: Unknown");
    assert_eq!(peer.hear(), "Acquire: Unknown");
}

pub async fn beats_on_a_bad_disk(path: &Path) {
    let store = Sqlite::connect(SqliteConfig::new(path).unwrap()).await.unwrap();
    let mut held = acquire(&store, &init(&store).await, "a").await;
    held = renew(&store, &held).await;
    say("held");
    wait_for_word();
    while held.record.as_ref().unwrap().beat < 100 {
        held = renew(&store, &held).await;
    }
    say(&format!("renewed: beat {}", observe(&store).await.record.unwrap().beat));
    wait_for_word();
    let free = writes::release(&held, held.record.as_ref().unwrap(), &Fresh::random());
    for (record, change) in [(free, Change::Release), (acquired(&held, "b"), Change::Acquire)] {
        let error = store.put_if(&name(), &held, &record, change).await.unwrap_err();
        say(&format!("{change:?}: {:?}", error.certainty));
    }
    wait_for_word();
}

/// Nobody waits for ever behind a disk that hangs, and what was given up does not come alive in a crowd later.
pub fn abandoned_writes() {
    let place = Place::new();
    let (mut peer, _, hanging) = start("hanging disk", &place);
    assert_eq!(peer.hear(), "held");
    fs::write(&hanging, "").unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "abandoned: Unknown, NotApplied, NotApplied, NotApplied");
    fs::remove_file(&hanging).unwrap();
    peer.tell();
    assert_eq!(peer.hear(), "leases: given-up-0 last outbox-forwarder");
}

/// The first write is dropped after a while; the others get a busy timeout's time each.
pub async fn write_on_a_hanging_disk(path: &Path) {
    let config = SqliteConfig::new(path).unwrap().busy_timeout(Duration::from_millis(50)).unwrap();
    let store = Sqlite::connect(config).await.unwrap();
    init(&store).await;
    say("held");
    wait_for_word();
    let absent = async |lease: &str| {
        let lease = LeaseName::new(lease).unwrap();
        let absent = store.observe(&lease).await.expect("reads go on");
        (lease, absent)
    };
    let write = async |(lease, absent): (LeaseName, Observation)| {
        let record = writes::init(&absent, TTL, 0, None, &Fresh::random());
        store.put_if(&lease, &absent, &record, Change::Init).await
    };
    let create = async |lease: &str| write(absent(lease).await).await;
    let first = absent("given-up-0").await;
    let first = tokio::time::timeout(Duration::from_millis(50), write(first)).await;
    let mut certainties = vec![if first.is_err() { "Unknown".to_owned() } else { format!("{first:?}") }];
    for number in 1..4 {
        let error = create(&format!("given-up-{number}")).await.unwrap_err();
        certainties.push(format!("{:?}", error.certainty));
    }
    say(&format!("abandoned: {}", certainties.join(", ")));
    wait_for_word();
    while create("last").await.is_err() {}
    let leases: Vec<_> =
        store.list("").await.unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
    say(&format!("leases: {}", leases.join(" ")));
    wait_for_word();
}

pub async fn renew_on_a_failing_disk(path: &Path) {
    let store = Sqlite::connect(SqliteConfig::new(path).unwrap()).await.unwrap();
    let held = acquire(&store, &init(&store).await, "a").await;
    say("held");
    wait_for_word();
    let error = store.put_if(&name(), &held, &renewed(&held), Change::Renew).await.unwrap_err();
    say(&format!("{:?}", error.certainty));
    let seen = observe(&store).await;
    say(&format!("seen: beat {}", seen.record.as_ref().unwrap().beat));
    wait_for_word();
    let mut second = renewed(&seen);
    second.note = "second attempt".into();
    let now = put(&store, &seen, &second, Change::Renew).await;
    say(&format!("renewed: beat {}", now.record.unwrap().beat));
    wait_for_word();
}
