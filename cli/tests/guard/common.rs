//! A lease file in a throw-away folder, guards on it, and what their commands leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lease_testbed::{Process, ProcessCommand, Signal, wait_until};

/// Generous: the machine may be busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// SIGKILL comes after three quarters of it; the last one is for the proof of death: the machine may be busy.
pub(crate) const STOP_BUDGET: [&str; 2] = ["--stop-budget", "6s"];

/// Each of these is a test of its own in each isolation.
macro_rules! in_each_isolation {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            #[tokio::test]
            async fn pid() {
                super::$name("pid").await;
            }

            #[tokio::test]
            async fn cgroup() {
                super::$name("cgroup").await;
            }

            #[tokio::test]
            async fn none() {
                super::$name("none").await;
            }
        }
    )* };
}
pub(crate) use in_each_isolation;

pub(crate) struct Place {
    folder: tempfile::TempDir,
    isolate: String,
    /// The flags that name the lease store.
    store: Vec<String>,
}

impl Place {
    /// With a lease file, and guards of this isolation.
    pub(crate) fn new(isolate: &str) -> Self {
        Self::with(isolate, &["--sqlite-path", "leases.db"])
    }

    /// With leases in a PostgreSQL.
    pub(crate) fn on_postgres(url: &str) -> Self {
        Self::with("auto", &["--mode", "postgres", "--postgres-url", url])
    }

    fn with(isolate: &str, store: &[&str]) -> Self {
        let store = store.iter().map(|flag| (*flag).to_owned()).collect();
        Self { folder: tempfile::tempdir().unwrap(), isolate: isolate.to_owned(), store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `leasehold`, for this place's lease `job`.
    pub(crate) fn leasehold(&self, arguments: &[&str]) -> Process {
        self.command(arguments).spawn().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> ProcessCommand {
        // With every signal's default: `nohup` and a shell's background jobs ignore some, and so would all they start.
        Process::command("env")
            .unwrap()
            .args(["--default-signal", env!("CARGO_BIN_EXE_leasehold")])
            .current_dir(self.folder.path())
            .args(&self.store)
            .args(["--lease", "job"])
            .args(arguments)
    }

    /// A guard that runs `script`, which works in this place's folder.
    pub(crate) fn guard(&self, ttl: Duration, flags: &[&str], script: &str) -> Process {
        let ttl = format!("{}ms", ttl.as_millis());
        let mut arguments = vec!["run", "--init", "--ttl", &ttl, "--isolate", &self.isolate];
        arguments.extend_from_slice(flags);
        arguments.extend_from_slice(&["--", "sh", "-c", script]);
        self.leasehold(&arguments)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until `name` has at least `count` whole lines, and returns them.
    pub(crate) async fn await_lines(&self, name: &str, count: usize) -> Vec<String> {
        until(&format!("{count} lines in {name}"), || self.read(name).matches('\n').count() >= count).await;
        self.lines(name)
    }
}

pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, LIMIT, || std::future::ready(condition())).await.unwrap();
}

pub(crate) fn pid(text: &str) -> u32 {
    text.trim().parse().unwrap()
}

/// Neither there nor a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != "Z" && state != "X")
}

/// `R`, `S`, `T`, …
pub(crate) fn state(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// It lives, and is not stopped, nor about to be.
pub(crate) fn runs(pid: u32) -> bool {
    !is_pending(pid, Signal::STOP) && is_alive(pid) && state(pid).is_some_and(|state| state != "T")
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        tasks.map(|task| fs::read_to_string(Path::new(&task.path()).join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(self::pid).collect::<Vec<_>>()).collect()
}

/// Was the signal sent to this process, and not acted on yet?
pub(crate) fn is_pending(pid: u32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    pending & (1 << (signal.as_raw() - 1)) != 0
}

/// The guard's one child.
pub(crate) fn watchdog_of(guard: &Process) -> u32 {
    only_child(guard.id())
}

/// The watchdog's one child.
pub(crate) fn keeper_of(guard: &Process) -> u32 {
    only_child(watchdog_of(guard))
}

fn only_child(pid: u32) -> u32 {
    let children = children(pid);
    assert_eq!(children.len(), 1, "a guard has one child, its watchdog, and that has one, the keeper");
    children[0]
}

/// The descendants of a process.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children(*parent));
        next += 1;
    }
    found
}

/// The number out here of a living descendant of `ancestor` that has this number for itself, in its PID namespace.
pub(crate) fn outside(ancestor: &Process, inside: u32) -> u32 {
    let own = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        numbers.split_whitespace().last().map(self::pid)
    };
    let found = descendants(ancestor.id()).into_iter().find(|pid| own(*pid) == Some(inside));
    found.unwrap_or_else(|| panic!("there is no descendant that is {inside} for itself"))
}

/// Does anything live that has kept the lock on the file `alive`, or inherited it?
pub(crate) fn anything_lives(place: &Place) -> bool {
    let file = fs::File::options().append(true).create(true).open(place.path("alive")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

pub(crate) fn send(pid: u32, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Waits for a guard that was sent SIGTERM, and whose command had to be killed.
pub(crate) async fn await_killed(guard: &Process) {
    let code = guard.wait(LIMIT).await.unwrap().code();
    // On a busy machine the keeper may be late: then the guard kills, says so, and ends like any by that signal.
    let late =
        || guard.lines().iter().any(|line| line.contains("the keeper has not ended the command in time"));
    assert!(code == Some(137) || (code == Some(143) && late()), "{code:?}: {:?}", guard.lines());
}

pub(crate) async fn await_death(what: &str, pids: &[u32]) {
    until(what, || pids.iter().all(|pid| !is_alive(*pid))).await;
}
