//! The second process: how it is started and spoken to, and what it does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lease_core::internal::writes::{self, Fresh};
use lease_core::{BackendError, Change, LeaseBackend, PutOutcome};
use lease_sqlite::{Sqlite, SqliteConfig};
use sqlx::Connection;

use crate::common::*;
use crate::{disk, kills, places};

/// The time limit of an awaited answer from a peer.
const LIMIT: Duration = Duration::from_secs(60);

/// A process of ours in another role. Killed when dropped.
pub struct Peer {
    child: Child,
    tell: Option<ChildStdin>,
    /// Its lines, with their ends; closed when it has nothing more to say.
    hear: Receiver<String>,
}

impl Peer {
    pub fn start(role: &str, path: &Path) -> Self {
        Self::start_with(role, path, &[])
    }

    pub fn start_with(role: &str, path: &Path, environment: &[(&str, &Path)]) -> Self {
        let program = std::env::current_exe().expect("our own path");
        let mut command = Command::new(program);
        command.env("LEASE_SQLITE_ROLE", role).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(environment.iter().copied());
        let mut child = command.spawn().expect("a second process");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (heard, hear) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                let _ = heard.send(std::mem::take(&mut line));
            }
        });
        Self { tell: child.stdin.take(), child, hear }
    }

    pub fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Lets it go on.
    pub fn tell(&mut self) {
        writeln!(self.tell.as_mut().expect("not closed"), "go on").expect("it listens");
    }

    /// Its next line.
    pub fn hear(&mut self) -> String {
        self.hear.recv_timeout(LIMIT).expect("it speaks within a minute").trim_end().to_owned()
    }

    /// Kills it, and returns the lines that are left.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
        let mut hear: Vec<_> = std::iter::from_fn(|| self.hear.recv_timeout(LIMIT).ok()).collect();
        if hear.last().is_some_and(|line| !line.ends_with('\n')) {
            hear.pop(); // cut off by the kill
        }
        hear.iter().map(|line| line.trim_end().to_owned()).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says a line, at once.
pub fn say(line: &str) {
    println!("{line}");
}

/// Waits until the parent tells us to go on.
pub fn wait_for_word() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the parent speaks");
}

async fn open(path: &str) -> Result<Sqlite, BackendError> {
    Sqlite::connect(SqliteConfig::new(path).expect("a usable path")).await
}

/// Plays `role` with its arguments, the first of which is a path.
pub fn play(role: &str, arguments: &[String]) {
    let path = arguments[0].as_str();
    match role {
        "lock" => block_on(lock(path)),
        "open" => block_on(race(path)),
        "hold" => block_on(hold(path)),
        "write" => block_on(kills::write_for_ever(path)),
        "failing disk" => block_on(disk::renew_on_a_failing_disk(Path::new(path))),
        "hanging disk" => block_on(disk::write_on_a_hanging_disk(Path::new(path))),
        "beats" => block_on(disk::beats_on_a_bad_disk(Path::new(path))),
        "full disk" => block_on(places::on_a_full_disk(Path::new(path))),
        "mounted file" => block_on(places::on_a_mounted_file(Path::new(path))),
        "fuse" => block_on(places::on_fuse(Path::new(path))),
        "no rights" => block_on(places::without_rights(Path::new(path))),
        _ => panic!("unknown role {role}"),
    }
}

/// Holds the file's write lock until told to go on.
async fn lock(path: &str) {
    let mut shell = shell(Path::new(path)).await;
    let transaction = shell.begin_with("BEGIN IMMEDIATE").await.unwrap();
    say("locked");
    wait_for_word();
    transaction.rollback().await.unwrap();
    say("free");
    wait_for_word();
}

/// Opens the file and creates the register, together with many others.
async fn race(path: &str) {
    say("ready");
    wait_for_word();
    let store = match open(path).await {
        Ok(store) => store,
        Err(error) => return say(&format!("failed: {error}")),
    };
    let absent = observe(&store).await;
    let record = writes::init(&absent, TTL, 0, None, &Fresh::random());
    if absent.record.is_some() {
        say("found");
        return wait_for_word();
    }
    match store.put_if(&name(), &absent, &record, Change::Init).await {
        Ok(PutOutcome::Written(_)) => say("created"),
        Ok(PutOutcome::Conflict(_)) => say("found"),
        Err(error) => say(&format!("failed: {error}")),
    }
    wait_for_word();
}

/// Holds the lease; renews it when told to.
async fn hold(path: &str) {
    let store = open(path).await.unwrap();
    let held = acquire(&store, &init(&store).await, "holder").await;
    say("held");
    wait_for_word();
    match store.put_if(&name(), &held, &renewed(&held), Change::Renew).await {
        Ok(outcome) => say(&format!("{outcome:?}")),
        Err(error) => say(&format!("failed: {:?} {error}", error.certainty)),
    }
    wait_for_word();
}
