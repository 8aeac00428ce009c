//! Bad places for a lease file. Mounts are made in a mount namespace of their own (`unshare`), which an unprivileged
//! user may make too on most systems; where it is forbidden these trials fail with the reason, unless
//! `LEASEHOLD_TEST_WITHOUT=mounts` says that they are not wanted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use lease_core::{BackendError, Certainty, Change, LeaseBackend};
use lease_sqlite::{Sqlite, SqliteConfig};

use crate::common::*;

/// Runs a role of ours under `wrapper`, with `path` as its argument, and asserts that it ends well.
fn run(wrapper: &[&str], role: &str, path: &Path) {
    let program = std::env::current_exe().expect("our own path");
    let mut command = match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    let done = command.env("LEASE_SQLITE_ROLE", role).arg(path).output();
    let done = done.unwrap_or_else(|error| panic!("{wrapper:?} can't be run: {error}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{role}, under {wrapper:?}: {} {said}", done.status);
}

/// The same in a mount namespace, after a shell script that makes mounts; `$1` is `path`.
fn run_with_mounts(script: &str, role: &str, path: &Path) {
    if std::env::var("LEASEHOLD_TEST_WITHOUT").is_ok_and(|without| without.split(',').any(|w| w == "mounts"))
    {
        println!("not judged: {role}, because LEASEHOLD_TEST_WITHOUT names mounts");
        return;
    }
    // sh -c SCRIPT PROGRAM PATH: the program is the script's $0.
    let script = format!("set -e; {script}; exec \"$0\" \"$1\"");
    run(&["unshare", "--map-root-user", "--mount", "sh", "-c", &script], role, path);
}

pub fn full_disk() {
    let place = Place::new();
    run_with_mounts("mount -t tmpfs -o size=2m tmpfs \"$1\"", "full disk", place.folder());
}

pub fn mounted_file() {
    let place = Place::new();
    fs::create_dir(place.folder().join("outside")).unwrap();
    fs::File::create(place.folder().join("outside/leases.sqlite")).unwrap();
    fs::File::create(place.file()).unwrap();
    let mount = "mount --bind \"$1/outside/leases.sqlite\" \"$1/leases.sqlite\"";
    run_with_mounts(mount, "mounted file", place.folder());
}

pub fn fuse() {
    let place = Place::new();
    run_with_mounts("true", "fuse", place.folder());
}

pub fn no_rights() {
    let place = Place::new();
    // Root may do everything; so without that privilege.
    let mortal: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--bounding-set=-dac_override,-dac_read_search"],
        false => &[],
    };
    run(mortal, "no rights", place.folder());
}

fn config(folder: &Path) -> SqliteConfig {
    SqliteConfig::new(folder.join("leases.sqlite")).expect("a usable path")
}

async fn refusal(folder: &Path) -> BackendError {
    let error = Sqlite::connect(config(folder)).await.expect_err("this place must be refused");
    assert!(error.refused, "{error}");
    error
}

pub async fn on_a_full_disk(folder: &Path) {
    let store = Sqlite::connect(config(folder)).await.unwrap();
    let mut held = acquire(&store, &init(&store).await, "a").await;
    let rows = store.history(&name(), 9).await.unwrap();
    fill(&folder.join("filler"));

    // The log may have some room left.
    let error = loop {
        match store.put_if(&name(), &held, &renewed(&held), Change::Renew).await {
            Ok(outcome) => match outcome {
                lease_core::PutOutcome::Written(now) => held = now,
                conflict => panic!("{conflict:?}"),
            },
            Err(error) => break error,
        }
    };
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, false), "{error}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    assert_eq!(observe(&store).await, held, "the register is as it was acknowledged last");
    let error = store.put_if(&name(), &held, &acquired(&held, "b"), Change::Acquire).await.unwrap_err();
    assert_eq!(error.certainty, Certainty::NotApplied, "{error}");
    assert_eq!(store.history(&name(), 9).await.unwrap(), rows, "no row without its change");

    let other = SqliteConfig::new(folder.join("new.sqlite")).unwrap();
    let error = Sqlite::connect(other.clone()).await.expect_err("there is no room for a new file");
    assert!(!error.refused, "it may be tried again: {error}");

    fs::remove_file(folder.join("filler")).unwrap();
    assert_eq!(observe(&store).await, held);
    let held = renew(&store, &held).await;
    let again = Sqlite::connect(config(folder)).await.unwrap();
    assert_eq!(observe(&again).await, held);
    init(&Sqlite::connect(other).await.expect("now there is room")).await;
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut filler = fs::File::create(path).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
}

pub async fn on_a_mounted_file(folder: &Path) {
    let error = refusal(folder).await;
    assert!(error.to_string().contains("mount its folder instead"), "{error}");
}

pub async fn on_fuse(folder: &Path) {
    let requests = crate::fuse::mount(folder);
    let error = refusal(folder).await;
    assert!(error.to_string().contains("is on FUSE") && error.to_string().contains("local disk"), "{error}");
    assert_eq!(requests.created(), 0);
    assert!(requests.answered() > 0, "the file system was never asked");
}

pub async fn without_rights(folder: &Path) {
    let file = folder.join("leases.sqlite");
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();

    allow(folder, 0o500);
    let error = SqliteConfig::new(&file).unwrap_err().to_string();
    assert!(error.contains("may not create files in") && error.contains(folder.to_str().unwrap()), "{error}");
    allow(folder, 0o700);

    let store = Sqlite::connect(config(folder)).await.unwrap();
    let free = init(&store).await;
    allow(&file, 0o400);
    let error = SqliteConfig::new(&file).unwrap_err().to_string();
    assert!(error.contains("may not read and write the file"), "{error}");
    allow(&file, 0o600);

    // Checked when it is opened, too: a config may have been made long before.
    let config = config(folder);
    allow(&file, 0o400);
    let error = Sqlite::connect(config).await.expect_err("not writable");
    assert!(error.refused && error.to_string().contains("may not read and write the file"), "{error}");
    acquire(&store, &free, "who opened it before goes on").await;
}
