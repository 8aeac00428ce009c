//! Settings that can't work are refused before anything starts, each with a sentence that says what to do.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use common::*;
use lease_core::{BackendError, Connector, LeaseBackend};
use lease_sqlite::{Sqlite, SqliteConfig};

#[track_caller]
fn assert_path_refused(path: &Path, words: &[&str]) {
    let error = SqliteConfig::new(path).unwrap_err();
    assert_eq!((error.setting, error.value.as_str()), ("path", path.to_str().unwrap()));
    for word in words {
        assert!(error.to_string().contains(word), "{error} should say {word:?}");
    }
}

async fn refusal(place: &Place) -> BackendError {
    let error = Sqlite::connect(place.config()).await.expect_err("this file must be refused");
    assert!(error.refused, "{error}");
    assert!(error.to_string().contains(place.file().to_str().unwrap()), "{error}");
    error
}

#[test]
fn a_path_that_can_not_work_is_refused_with_an_example_of_one_that_can() {
    let place = Place::new();
    assert_path_refused(Path::new(""), &["name the lease file", "/var/lib/leasehold/leases.sqlite"]);
    for memory in [":memory:", "file::memory:?cache=shared", "sqlite::memory:"] {
        assert_path_refused(Path::new(memory), &["can't share a database in memory", "leases.sqlite"]);
    }
    for url in ["file:leases.sqlite", "sqlite:///tmp/leases.sqlite"] {
        assert_path_refused(Path::new(url), &["plain path"]);
    }
    let inside = place.file().display().to_string();
    assert_path_refused(place.folder(), &["this is a folder", &inside]);
    assert_path_refused(&place.folder().join("missing/leases.sqlite"), &["missing", "create it first"]);
    fs::write(place.folder().join("file"), "").unwrap();
    assert_path_refused(&place.folder().join("file/leases.sqlite"), &["is not a folder"]);
    assert_path_refused(Path::new("/dev/null"), &["no regular file"]);

    let here = |name: &str| place.folder().join(name);
    assert_path_refused(Path::new(&format!("{inside}/")), &["names a folder"]);
    assert_path_refused(&here(&"long/".repeat(100)).join("leases.sqlite"), &["create it first"]);
    assert_path_refused(&here(&"x".repeat(300)), &["can't be used"]);
    let deep = place.folder().join("deep/".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    assert_path_refused(&deep.join("leases.sqlite"), &["at most 504 bytes"]);
    symlink(here("loop"), here("loop")).unwrap();
    assert_path_refused(&here("loop"), &["leads to no file"]);
    symlink(here("missing/leases.sqlite"), here("dangling")).unwrap();
    assert_path_refused(&here("dangling"), &["leads to no file"]);
    let made = std::process::Command::new("mkfifo").arg(here("pipe")).status().unwrap();
    assert!(made.success());
    assert_path_refused(&here("pipe"), &["no regular file"]);
    for beside in ["-wal", "-shm", "-journal"] {
        let file = here(&format!("used{beside}.sqlite"));
        fs::create_dir(format!("{}{beside}", file.display())).unwrap();
        assert_path_refused(&file, &[beside, "must be a file"]);
    }
}

#[test]
fn a_time_limit_that_can_not_work_is_refused_with_the_range() {
    let config = Place::new().config();
    for (result, setting) in [
        (config.clone().busy_timeout(Duration::ZERO), "busy_timeout"),
        (config.clone().busy_timeout(Duration::from_secs(3600)), "busy_timeout"),
        (config.clone().history_retention(Duration::from_secs(1)), "history_retention"),
        (config.clone().history_retention(Duration::MAX), "history_retention"),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.setting, setting);
        assert!(error.why.starts_with("use ") && error.why.contains(" to "), "{error}");
    }
}

#[tokio::test]
async fn a_relative_path_means_the_folder_that_was_current_at_the_time() {
    let place = Place::new();
    let config = SqliteConfig::new("leases.sqlite").unwrap();
    assert_eq!(config.path(), std::env::current_dir().unwrap().join("leases.sqlite"));
    assert!(!config.path().exists(), "nothing is opened yet");
    assert_eq!(place.config().path(), place.file());
}

#[tokio::test]
async fn another_programs_database_is_refused_and_left_alone() {
    let place = Place::new();
    fs::File::create(place.file()).unwrap();
    sqlx::query("CREATE TABLE theirs (a)").execute(&mut place.shell().await).await.unwrap();
    let before = fs::read(place.file()).unwrap();
    let error = refusal(&place).await;
    assert!(error.to_string().contains("a file of their own"), "{error}");
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Place::new();
    let text = "hello ".repeat(1000);
    fs::write(place.file(), &text).unwrap();
    let error = refusal(&place).await;
    assert!(error.to_string().contains("is not an SQLite database"), "{error}");
    assert_eq!(fs::read_to_string(place.file()).unwrap(), text);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = Place::new();
    init(&place.open().await).await;
    sqlx::query("PRAGMA user_version = 2").execute(&mut place.shell().await).await.unwrap();
    let error = refusal(&place).await;
    assert!(error.to_string().contains("schema version 2"), "{error}");
    assert!(error.to_string().contains("upgrade this program"), "{error}");
}

#[tokio::test]
async fn a_file_with_two_names_is_refused() {
    let place = Place::new();
    drop(place.open().await);
    fs::hard_link(place.file(), place.folder().join("second-name.sqlite")).unwrap();
    let error = refusal(&place).await;
    assert!(error.to_string().contains("hard links"), "{error}");
    fs::remove_file(place.folder().join("second-name.sqlite")).unwrap();
    place.open().await;
}

#[tokio::test]
async fn a_symbolic_link_leads_to_the_same_leases() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    let link = place.folder().join("link.sqlite");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    let linked = Sqlite::connect(SqliteConfig::new(&link).unwrap()).await.unwrap();
    assert_eq!(observe(&linked).await, held, "the lineage, too");
    renew(&linked, &held).await;
    fs::remove_file(&link).unwrap();
    assert!(linked.observe(&name()).await.unwrap_err().refused);
}

#[tokio::test]
async fn registers_outlive_the_processes_that_use_them() {
    let place = Place::new();
    let store = place.open().await;
    let held = acquire(&store, &init(&store).await, "a").await;
    drop(store);
    let connector = Sqlite::connector(place.config());
    let again = connector.connect().await.unwrap();
    assert_eq!(again.observe(&name()).await.unwrap(), held);
    assert_eq!(again.capabilities().name, "sqlite");
}

#[tokio::test]
async fn the_retention_that_was_set_last_stays() {
    let place = Place::new();
    let seconds = async || -> i64 {
        let sql = "SELECT history_retention_seconds FROM coordination_lease_settings";
        sqlx::query_scalar(sql).fetch_one(&mut place.shell().await).await.unwrap()
    };
    place.open().await;
    assert_eq!(seconds().await, 90 * 86_400);
    let week = place.config().history_retention(Duration::from_secs(7 * 86_400)).unwrap();
    Sqlite::connect(week).await.unwrap();
    assert_eq!(seconds().await, 7 * 86_400);
    place.open().await;
    assert_eq!(seconds().await, 7 * 86_400);
}
