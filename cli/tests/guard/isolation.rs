//! `--isolate`: no fault of our own processes lets anything outlive the deadline (G-1 to G-3).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lease_testbed::{Process, Signal, wait_until};

use crate::common::{
    LIMIT, Place, STOP_BUDGET, anything_lives, await_death, await_killed, children, in_each_isolation,
    is_alive, keeper_of, outside, pid, send, until, watchdog_of,
};
use crate::family::{FAMILY, SUCCESSOR, assert_beats_in_order, deaf_family, family};

/// At a ttl of 6 s: SIGKILL comes half a second before the deadline, the most that there is.
const EARLY: [&str; 4] = ["--renew-interval", "1s", "--stop-grace", "2s"];
const TTL: Duration = Duration::from_secs(6);

/// From the guard down: none of them can wake the next any more.
fn to_all_of_ours(guard: &Process, signal: Signal) {
    let ours = [guard.id(), watchdog_of(guard), keeper_of(guard)];
    for pid in ours {
        send(pid, signal);
    }
}

#[tokio::test]
async fn with_all_of_our_processes_stopped_the_whole_family_is_dead_by_the_deadline() {
    let place = Place::new("pid");
    let guard = place.guard(TTL, &EARLY, &deaf_family());
    let family = family(&place, &guard, 1).await;
    let second = place.guard(TTL, &[], SUCCESSOR);
    second.wait_for_line("standing by", LIMIT).await.unwrap();
    let stopped = Instant::now();
    to_all_of_ours(&guard, Signal::STOP);
    await_death("the family of a stopped guard, watchdog and keeper", &family).await;
    println!("SIGSTOP of all of ours to a deaf family's death: {:?}, of a ttl of 6 s", stopped.elapsed());
    assert!(stopped.elapsed() < TTL, "the last renewal was sent before the guard stopped");
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(0), "9: one of the family was still there");
    assert_beats_in_order(&place);
    guard.kill().await.unwrap();
}

#[tokio::test]
async fn with_all_of_our_processes_killed_the_whole_family_dies_at_once() {
    let place = Place::new("pid");
    let ttl = Duration::from_secs(60);
    let guard = place.guard(ttl, &[], &deaf_family());
    let family = family(&place, &guard, 1).await;
    let (watchdog, keeper) = (watchdog_of(&guard), keeper_of(&guard));
    let killed = Instant::now();
    guard.kill().await.unwrap();
    // The keeper may be dead by the time that its own signal comes.
    for pid in [watchdog, keeper] {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
    }
    await_death("the family of a killed guard, watchdog and keeper", &family).await;
    assert!(killed.elapsed() < ttl / 4, "by the kernel, not by any deadline");
}

in_each_isolation!(with_all_of_our_processes_stopped_the_command_itself_is_dead_by_the_deadline);

async fn with_all_of_our_processes_stopped_the_command_itself_is_dead_by_the_deadline(isolate: &str) {
    let place = Place::new(isolate);
    let guard = place.guard(TTL, &EARLY, "trap '' TERM; echo $$ >> log; while :; do sleep 0.01; done");
    let command = outside(&guard, pid(&place.await_lines("log", 1).await[0]));
    let stopped = Instant::now();
    to_all_of_ours(&guard, Signal::STOP);
    await_death("the command", &[command]).await;
    assert!(stopped.elapsed() < TTL, "the last renewal was sent before the guard stopped");
    guard.kill().await.unwrap();
}

in_each_isolation!(only_a_pid_namespace_ends_a_command_that_changes_its_user_while_all_of_ours_are_stopped);

/// Needs root rights, to change the user. The kernel forgets the parent-death signal with that.
async fn only_a_pid_namespace_ends_a_command_that_changes_its_user_while_all_of_ours_are_stopped(
    isolate: &str,
) {
    assert!(rustix::process::geteuid().is_root(), "run this as root: it changes the user");
    let place = Place::new(isolate);
    place.write("log", "");
    std::fs::set_permissions(place.path("log"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let script = r#"exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '
        trap "" TERM; echo $$ >> log; while :; do sleep 0.01; done'"#;
    let guard = place.guard(TTL, &EARLY, script);
    let command = outside(&guard, pid(&place.await_lines("log", 1).await[0]));
    let (watchdog, keeper) = (watchdog_of(&guard), keeper_of(&guard));
    let stopped = Instant::now();
    to_all_of_ours(&guard, Signal::STOP);
    await_death("watchdog and keeper", &[watchdog, keeper]).await;
    if isolate == "pid" {
        await_death("the command", &[command]).await;
        assert!(stopped.elapsed() < TTL, "the last renewal was sent before the guard stopped");
    } else {
        tokio::time::sleep(TTL.saturating_sub(stopped.elapsed())).await;
        assert!(is_alive(command), "the limit that --help-all and 0006 name is gone: say so there");
    }
    guard.resume().unwrap();
    await_death("the command, by the guard that runs again", &[command]).await;
    guard.kill().await.unwrap();
}

/// Deaf to SIGTERM, with children without end: each starts the next and dies.
const STORM: &str = r#"exec 9>>alive; flock -s 9; trap '' TERM
    hop() { while :; do (hop &); exit; done; }
    hop & hop & hop & hop &
    echo ready >> log; while :; do sleep 0.01; done"#;

#[tokio::test]
async fn a_command_that_forks_without_end_is_ended_within_the_stop_budget_and_released() {
    let place = Place::new("pid");
    let ttl = Duration::from_secs(60);
    let guard = place.guard(ttl, &STOP_BUDGET, STORM);
    place.await_lines("log", 1).await;
    guard.signal(Signal::TERM).unwrap();
    await_killed(&guard).await;
    assert!(!anything_lives(&place));
    let next = place.guard(ttl, &[], "exit 0");
    assert_eq!(next.wait(ttl / 2).await.unwrap().code(), Some(0), "proven dead, so released");
}

#[tokio::test]
async fn isolated_by_default_the_command_sees_its_own_processes_alone_and_is_who_it_was() {
    let place = Place::new("auto");
    let script = r#"sh -c '(true &); (true &)'; sleep 0.1
        for stat in /proc/[0-9]*/stat; do read -r line < $stat; set -- $line; echo "$2 $3" >> seen; done
        echo "$(id -u) $(id -g) $(pwd) $(cat)" >> who"#;
    let guard = place.guard(TTL, &[], script);
    guard.wait_for_line("isolate=\"pid\"", LIMIT).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
    let seen = place.lines("seen");
    assert!(seen.len() == 2 && seen[1] == "(sh) R", "an init and itself, no zombie: {seen:?}");
    let folder = place.path(".").canonicalize().unwrap();
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    assert_eq!(place.read("who"), format!("{user} {group} {} \n", folder.display()));
}

#[tokio::test]
async fn on_a_terminal_it_is_isolated_only_when_asked_to() {
    let place = Place::new("auto");
    let leasehold = env!("CARGO_BIN_EXE_leasehold");
    let guard = format!("{leasehold} run --init --sqlite-path leases.db --lease job -- true");
    let terminal = Process::command("script").unwrap().current_dir(place.path("."));
    let terminal = terminal.args(["-qefc", &guard, "typescript"]).spawn().unwrap();
    assert_eq!(terminal.wait(LIMIT).await.unwrap().code(), Some(0));
    assert!(place.read("typescript").contains("only the program itself is sure to end"));
}

/// The program where nobody may execute it, too: a checkout may lie in a folder that is closed to others, as root's home.
fn for_everybody(place: &Place) -> PathBuf {
    std::fs::set_permissions(place.path("."), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (own, copy) = (env!("CARGO_BIN_EXE_leasehold"), place.path("leasehold"));
    if !copy.exists() {
        std::fs::hard_link(own, &copy).or_else(|_| std::fs::copy(own, &copy).map(drop)).unwrap();
    }
    copy
}

/// Nobody, who may not even make a user namespace.
fn without_rights(place: &Place, arguments: &[&str]) -> Process {
    let leasehold = for_everybody(place).display().to_string();
    let script = r#"echo 0 > /proc/sys/user/max_user_namespaces
        exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@""#;
    let mut words = vec![];
    if rustix::process::geteuid().is_root() {
        words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    words.extend(["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]);
    words.extend([&leasehold, "--sqlite-path", "leases.db", "--lease", "job"]);
    words.extend(arguments);
    let command = Process::command(words[0]).unwrap().current_dir(place.path(".")).args(&words[1..]);
    command.spawn().unwrap()
}

#[tokio::test]
async fn an_isolation_that_cannot_be_had_is_refused_before_anything_starts_and_auto_does_without() {
    let place = Place::new("auto");
    for isolate in ["pid", "cgroup"] {
        let guard = without_rights(&place, &["run", "--init", "--isolate", isolate, "--", "touch", "ran"]);
        guard.wait_for_line("--isolate", LIMIT).await.unwrap();
        assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(2), "{isolate}: {:?}", guard.lines());
    }
    assert!(!place.path("ran").exists() && !place.path("leases.db").exists());
    let guard = without_rights(&place, &["run", "--init", "--", "touch", "ran"]);
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
    let said = guard.lines().iter().filter(|line| line.contains("can't be isolated here")).count();
    assert_eq!(said, 1, "{:?}", guard.lines());
    assert!(place.path("ran").exists());
}

/// A guard that `setpriv` gave these rights, and that may make no PID namespace by them.
fn with_rights(place: &Place, rights: &[&str], isolate: &str, script: &str) -> Process {
    assert!(rustix::process::geteuid().is_root(), "run this as root: it gives rights away");
    let leasehold = for_everybody(place);
    let command = Process::command("setpriv").unwrap().current_dir(place.path(".")).args(rights);
    let command = command.arg(leasehold).args(["--sqlite-path", "leases.db"]);
    let command = command.args(["--lease", "job", "run", "--init", "--isolate", isolate]);
    command.args(["--", "sh", "-c", script]).spawn().unwrap()
}

#[tokio::test]
async fn by_default_no_user_namespace_takes_rights_away_and_asked_for_it_does() {
    const AMBIENT: [&str; 5] = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=+net_bind_service",
        "--ambient-caps=+net_bind_service",
    ];
    let ambient = "grep CapAmb /proc/self/status >> log";
    const ROOT: [&str; 2] = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"];
    let root = ": > mine; chown 65534 mine && echo chown >> log || echo refused >> log";
    for (rights, script, kept, lost) in [
        (&AMBIENT[..], ambient, "CapAmb:\t0000000000000400", "CapAmb:\t0000000000000000"),
        (&ROOT[..], root, "chown", "refused"),
    ] {
        for (isolate, seen) in [("auto", kept), ("pid", lost)] {
            let place = Place::new(isolate);
            let guard = with_rights(&place, rights, isolate, script);
            assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
            assert_eq!(place.lines("log"), [seen], "{isolate}: {:?}", guard.lines());
            let refused = guard.lines().iter().any(|line| line.contains("would lose the rights"));
            assert_eq!(refused, isolate == "auto", "{:?}", guard.lines());
        }
    }
}

/// Well below the 30 s that a keeper may take to be ready.
const SOON: Duration = Duration::from_secs(15);

/// A guard that is isolated by default, and its watchdog, which has hardly begun and got this signal.
async fn at_its_start(place: &Place, script: &str, signal: Signal) -> Process {
    let guard = place.guard(LIMIT, &[], script);
    let watchdog = loop {
        let is_watchdog = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains("__watchdog"))
        };
        if let Some(pid) = children(guard.id()).into_iter().find(is_watchdog) {
            break pid;
        }
        tokio::task::yield_now().await;
    };
    send(watchdog, signal);
    guard
}

#[tokio::test]
async fn a_guard_hears_a_signal_before_its_keeper_is_ready() {
    let place = Place::new("auto");
    let guard = at_its_start(&place, "exec sleep 1000", Signal::STOP).await;
    guard.signal(Signal::TERM).unwrap();
    assert_eq!(guard.wait(SOON).await.unwrap().code(), Some(143), "{:?}", guard.lines());
}

#[tokio::test]
async fn a_watchdog_that_is_stopped_at_its_start_is_woken_and_isolates_as_ever() {
    let place = Place::new("auto");
    let guard = at_its_start(&place, "exit 3", Signal::STOP).await;
    guard.wait_for_line("isolate=\"pid\"", SOON).await.unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(3), "{:?}", guard.lines());
}

#[tokio::test]
async fn a_watchdog_that_is_killed_at_its_start_leads_to_no_lesser_isolation() {
    let place = Place::new("auto");
    let began = Instant::now();
    loop {
        let guard = at_its_start(&place, "exit 3", Signal::KILL).await;
        let code = guard.wait(LIMIT).await.unwrap().code();
        let lesser = ["cgroup", "none"].map(|name| format!("isolate=\"{name}\""));
        let lines = guard.lines();
        assert!(!lines.iter().any(|line| lesser.iter().any(|name| line.contains(name))), "{lines:?}");
        if code == Some(125) {
            // The keeper may have found its watchdog dead, and said so.
            let said = ["the keeper died at its start", "the keeper can't be started: the watchdog is dead"];
            let says = |line: &String| said.iter().any(|said| line.contains(said));
            assert!(lines.iter().any(says), "{lines:?}");
            break;
        }
        // It was ready by then, and replaced.
        assert_eq!(code, Some(3), "{lines:?}");
        assert!(began.elapsed() < LIMIT, "no watchdog was killed before it was ready");
    }
}

in_each_isolation!(a_set_uid_child_of_an_unprivileged_guard_is_ended_and_the_lease_released);

/// Needs root rights, to be nobody afterwards. In a cgroup the child really becomes root.
async fn a_set_uid_child_of_an_unprivileged_guard_is_ended_and_the_lease_released(isolate: &str) {
    assert!(rustix::process::geteuid().is_root(), "run this as root: it makes a set-uid program");
    let place = Place::new(isolate);
    let leasehold = for_everybody(&place);
    std::fs::copy("/usr/bin/setpriv", place.path("become")).unwrap();
    std::fs::set_permissions(place.path("become"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    let delegated = (isolate == "cgroup").then(|| cgroup_of_nobody(&place));
    let enter = delegated
        .as_ref()
        .map_or_else(String::new, |own| format!("echo $$ > {}/cgroup.procs;", own.display()));
    let drop = format!("{enter} exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"");
    let run = |script: &str| {
        let command = Process::command("sh").unwrap().current_dir(place.path("."));
        let command = command.args(["-c", &drop, "sh"]).arg(&leasehold);
        let command = command.args(["--sqlite-path", "leases.db", "--lease", "job", "run", "--init"]);
        let command = command.args(["--ttl", "60s"]).args(STOP_BUDGET).args(["--isolate", isolate]);
        command.args(["--", "sh", "-c", script]).spawn().unwrap()
    };
    let guard = run(r#"exec 9>>alive; flock -s 9
        root() { ./become --reuid=0 --regid=0 --clear-groups sh -c 'id -u >> who; exec sleep 1000'; }
        (root || { id -u >> who; exec sleep 1000; }) &
        exec sleep 1000"#);
    let who = place.await_lines("who", 1).await;
    assert_eq!(who[0] == "0", isolate == "cgroup", "{who:?}");
    guard.signal(Signal::TERM).unwrap();
    let code = guard.wait(LIMIT).await.unwrap().code();
    assert_eq!(code, Some(143), "{:?}", guard.lines());
    assert!(!anything_lives(&place));
    let next = run("exit 0");
    assert_eq!(
        next.wait(LIMIT / 2).await.unwrap().code(),
        Some(0),
        "proven dead, so released: {:?}",
        next.lines()
    );
    if let Some(own) = delegated {
        // The last guard's watchdog outlives it by a moment, in which it removes the command's cgroup.
        let removed = || async { std::fs::remove_dir(&own).is_ok() };
        wait_until("nothing is left in it", LIMIT, removed).await.unwrap();
    }
}

fn cgroup_mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup v2 is mounted");
    mount.split(' ').nth(4).unwrap().into()
}

/// A cgroup that is delegated to nobody.
fn cgroup_of_nobody(place: &Place) -> PathBuf {
    let name = place.path(".").canonicalize().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let own = cgroup_mount().join(format!("leasehold-test-{name}"));
    std::fs::create_dir(&own).unwrap();
    for file in [own.clone(), own.join("cgroup.procs")] {
        std::os::unix::fs::chown(file, Some(65534), Some(65534)).unwrap();
    }
    own
}

#[tokio::test]
async fn a_cgroup_that_was_left_behind_goes_with_the_next_start() {
    let place = Place::new("cgroup");
    let guard = place.guard(TTL, &[], "echo $$ >> log; exec sleep 1000");
    let command = pid(&place.await_lines("log", 1).await[0]);
    let cgroups = std::fs::read_to_string(format!("/proc/{command}/cgroup")).unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let left = cgroup_mount().join(own);
    let (watchdog, keeper) = (watchdog_of(&guard), keeper_of(&guard));
    send(guard.id(), Signal::STOP);
    send(watchdog, Signal::KILL);
    guard.kill().await.unwrap();
    await_death("watchdog, keeper and command", &[watchdog, keeper, command]).await;
    assert!(left.exists(), "nobody was left to remove it");
    let next = place.guard(TTL, &[], "exit 0");
    assert_eq!(next.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", next.lines());
    assert!(!left.exists());
}

#[tokio::test]
async fn a_start_in_another_pid_namespace_takes_nobodys_cgroup_for_one_that_was_left_behind() {
    let place = Place::new("cgroup");
    let first = place.guard(LIMIT, &[], "echo started >> log; until [ -e go ]; do sleep 0.01; done");
    place.await_lines("log", 1).await;
    let standby = place.guard(LIMIT, &[], "echo second >> log");
    standby.wait_for_line("standing by", LIMIT).await.unwrap();
    // There the standby's watchdog has no number, and its cgroup is empty.
    let elsewhere = Process::command("unshare").unwrap().current_dir(place.path("."));
    let elsewhere = elsewhere.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_leasehold")]);
    let elsewhere = elsewhere.args(["--sqlite-path", "leases.db", "--lease", "other", "run", "--init"]);
    let elsewhere = elsewhere.args(["--isolate", "cgroup", "--", "true"]).spawn().unwrap();
    assert_eq!(elsewhere.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", elsewhere.lines());
    place.write("go", "");
    assert_eq!(first.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", first.lines());
    assert_eq!(standby.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", standby.lines());
    assert_eq!(place.lines("log"), ["started", "second"]);
}

/// Field 19 of `/proc/PID/stat`.
fn nice(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().to_owned()
}

in_each_isolation!(watchdog_and_keeper_go_before_the_command_whose_priority_is_as_it_was_given);

/// Needs root rights.
async fn watchdog_and_keeper_go_before_the_command_whose_priority_is_as_it_was_given(isolate: &str) {
    assert!(rustix::process::geteuid().is_root(), "run this as root: others may not raise a priority");
    let place = Place::new(isolate);
    let guard = Process::command("nice").unwrap().current_dir(place.path("."));
    let guard = guard.args([
        "-n",
        "7",
        env!("CARGO_BIN_EXE_leasehold"),
        "--sqlite-path",
        "leases.db",
        "--lease",
        "job",
    ]);
    let guard =
        guard.args(["run", "--init", "--isolate", isolate, "--", "sh", "-c", FAMILY]).spawn().unwrap();
    let family = family(&place, &guard, 1).await;
    for ours in [watchdog_of(&guard), keeper_of(&guard)] {
        until("the highest priority", || nice(ours) == "-20").await;
    }
    let given = nice(guard.id());
    assert!(given.parse::<i32>().unwrap() >= 7);
    for pid in family {
        assert_eq!(nice(pid), given);
    }
    guard.kill().await.unwrap();
}
