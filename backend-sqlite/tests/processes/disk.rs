//! The disk fails when a commit is to be made durable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lease_core::{Change, LeaseBackend};
use lease_sqlite::{Sqlite, SqliteConfig};

use crate::common::*;
use crate::peer::{Peer, say, wait_for_word};

/// While the file exists that `FAIL_SYNC` names, no file can be made durable.
const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int failing(void) { errno = EIO; return access(getenv("FAIL_SYNC"), F_OK) == 0; }
int fsync(int fd) { return failing() ? (errno = EIO, -1) : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return failing() ? (errno = EIO, -1) : syscall(SYS_fdatasync, fd); }
"#;

/// Starts `role` with a disk that fails on request.
fn start(role: &str, place: &Place) -> (Peer, PathBuf) {
    let (source, shim) = (place.folder().join("shim.c"), place.folder().join("shim.so"));
    fs::write(&source, SHIM).unwrap();
    // SQLite is built from source by a C compiler, so there is one.
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).status();
    assert!(built.expect("a C compiler, as cc").success());
    let failing = place.folder().join("failing");
    let peer = Peer::start_with(role, &place.file(), &[("LD_PRELOAD", &shim), ("FAIL_SYNC", &failing)]);
    (peer, failing)
}

/// Nobody sees the write whose fsync failed, and yet the log holds it: after a crash it is there.
pub fn crash_after_a_failed_sync() {
    let place = Place::new();
    let (mut peer, failing) = start("failing disk", &place);
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
    let (mut peer, failing) = start("failing disk", &place);
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

pub async fn renew_on_a_failing_disk(path: &Path) {
    let store = Sqlite::connect(SqliteConfig::new(path).unwrap()).await.unwrap();
    let held = acquire(&store, &init(&store).await, "a").await;
    say("held");
    wait_for_word();
    let error = store.put_if(&name(), &held, &beat(&held), Change::Renew).await.unwrap_err();
    say(&format!("{:?}", error.certainty));
    let seen = observe(&store).await;
    say(&format!("seen: beat {}", seen.record.as_ref().unwrap().beat));
    wait_for_word();
    let mut second = beat(&seen);
    second.note = "second attempt".into();
    let now = put(&store, &seen, &second, Change::Renew).await;
    say(&format!("renewed: beat {}", now.record.unwrap().beat));
    wait_for_word();
}
