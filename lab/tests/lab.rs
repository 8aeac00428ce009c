//! The lab's own subcommands, small: `make bars` runs them at full length.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, Process, Signal, wait_for, wait_until};
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(900);

fn lab(args: &[&str]) -> Process {
    let lab = Process::command(env!("CARGO_BIN_EXE_leasehold-lab")).unwrap();
    // Standard output and error come as one: what is told besides the report is not to be in its middle.
    lab.args(args).env("RUST_LOG", "off").spawn().unwrap()
}

/// Runs it to the end. Returns its exit code, and its report.
async fn report(args: &[&str]) -> (Option<i32>, Value) {
    let lab = lab(&[args, &["--json"]].concat());
    let status = lab.wait(LIMIT).await.unwrap();
    // Its last lines may still be on their way when it has ended.
    let report = wait_for("the report is complete", Duration::from_secs(30), async || {
        let lines = lab.lines();
        let told = lines.iter().skip_while(|line| *line != "{").cloned().collect::<Vec<_>>();
        // What follows it is standard error's.
        let first = serde_json::Deserializer::from_str(&told.join("\n")).into_iter().next();
        first.ok_or("nothing is told".to_owned())?.map_err(|error| format!("{error} in {lines:#?}"))
    });
    let report = report.await.unwrap();
    (status.code(), report)
}

async fn chaos(mode: &str, more: &[&str]) -> (Option<i32>, Value) {
    let args = ["chaos", "--mode", mode, "--takeovers", "16", "--leases", "4", "--seed", "11"];
    report(&[&args, more].concat()).await
}

async fn no_rule_is_violated(mode: &str) {
    let (code, report) = chaos(mode, &[]).await;
    assert_eq!((code, &report["violations"]), (Some(0), &Value::Array(vec![])), "{report:#}");
    assert!(report["effects_refused"].as_u64().unwrap() > 0, "{report:#}");
}

async fn stale_effects_show(mode: &str) {
    let (code, report) = chaos(mode, &["--sabotage-admission"]).await;
    let violations = report["violations"].as_array().unwrap();
    assert!(!violations.is_empty(), "{report:#}");
    assert!(violations.iter().all(|violation| violation["rule"] == "L-7"), "{report:#}");
    assert_eq!((code, &report["effects_refused"]), (Some(0), &Value::from(0)), "{report:#}");
}

#[tokio::test]
async fn the_table_of_many_leases_is_timed_beside_a_look_at_one() {
    let (code, report) = report(&["status", "--mode", "sqlite", "--leases", "40", "--times", "3"]).await;
    assert_eq!(
        (&report["leases"], &report["all"]["count"], &report["one"]["count"]),
        (&40.into(), &3.into(), &3.into())
    );
    let holds = report["all"]["median_ms"].as_f64() <= report["bar_ms"].as_f64();
    assert_eq!((code, &report["holds"]), (Some(i32::from(!holds)), &holds.into()), "{report:#}");
}

#[tokio::test]
async fn chaos_on_sqlite_violates_no_rule() {
    no_rule_is_violated("sqlite").await;
}

#[tokio::test]
async fn chaos_on_postgres_violates_no_rule() {
    no_rule_is_violated("postgres").await;
}

#[tokio::test]
async fn stale_effects_show_on_sqlite_when_admission_is_sabotaged() {
    stale_effects_show("sqlite").await;
}

#[tokio::test]
async fn stale_effects_show_on_postgres_when_admission_is_sabotaged() {
    stale_effects_show("postgres").await;
}

async fn a_killed_holder_is_replaced_in_time(mode: &str) {
    let args = ["failover", "--mode", mode, "--ttl", "2s", "--times", "4", "--leases", "2"];
    let (code, report) = report(&args).await;
    assert_eq!(code, Some(0), "{report:#}");
    let observed = &report["after_the_last_beat_was_observed"];
    assert_eq!(observed["count"], 4);
    // No sooner than T-2 allows, either.
    assert!(observed["min_ms"].as_f64().unwrap() >= 2004.0, "{report:#}");
}

#[tokio::test]
async fn a_killed_holder_is_replaced_in_time_on_sqlite() {
    a_killed_holder_is_replaced_in_time("sqlite").await;
}

#[tokio::test]
async fn a_killed_holder_is_replaced_in_time_on_postgres() {
    a_killed_holder_is_replaced_in_time("postgres").await;
}

/// A lease without a fence loses updates to holders that were stopped within one, and with it none, in the same run.
#[tokio::test]
async fn a_set_loses_no_update_to_stopped_holders_if_it_is_fenced() {
    let args = ["torture", "lock-set", "--mode", "sqlite", "--updates", "400", "--sets", "4", "--seed", "5"];
    let (code, report) = report(&args).await;
    let of =
        |fence: &str| report["guarded"].as_array().unwrap().iter().find(|set| set["fence"] == fence).unwrap();
    let (bare, fenced) = (of("none"), of("its term"));
    assert!(bare["lost"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!((&fenced["lost"], &fenced["stale_effects"]), (&0.into(), &0.into()), "{report:#}");
    assert!(fenced["acknowledged"].as_u64().unwrap() >= 400, "{report:#}");
    assert_eq!(code, Some(0), "{report:#}");
}

/// With this version in both parts: `make soak` has earlier ones.
#[tokio::test]
async fn two_programs_take_a_lease_over_from_each_other_and_keep_what_neither_knows() {
    let leasehold = Path::new(env!("CARGO_BIN_EXE_leasehold-lab")).with_file_name("leasehold");
    let old = leasehold.to_str().unwrap();
    let args = ["upgrade", "--old", old, "--mode", "sqlite", "--rounds", "6", "--seed", "3"];
    let (code, report) = report(&args).await;
    let claims = report["stores"][0]["claims"].as_array().unwrap();
    assert!(claims.len() == 3 && claims.iter().all(|claim| claim["holds"] == true), "{report:#}");
    assert_eq!(code, Some(0), "{report:#}");
}

#[tokio::test]
async fn two_lead_after_a_restore_if_those_who_start_are_not_told_of_it() {
    let args = ["restores", "--mode", "sqlite", "--kind", "shell", "--sabotage", "--seed", "1"];
    let (code, report) = report(&args).await;
    let violations = report["violations"].as_array().unwrap();
    assert!(violations.iter().any(|violation| violation["rule"] == "L-1"), "{report:#}");
    assert_eq!(code, Some(0), "{report:#}");
}

#[tokio::test]
async fn an_unknown_way_to_restore_is_refused_with_those_that_are_known() {
    let lab = lab(&["restores", "--mode", "etcd", "--kind", "tape"]);
    assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(2));
    let said = lab.lines().join("\n");
    assert!(["\"tape\"", "plain (", "bumped ("].iter().all(|part| said.contains(part)), "{said}");
}

#[tokio::test]
async fn a_hand_over_is_measured_beside_the_bare_commits() {
    let (_, report) = report(&["handover", "--mode", "postgres", "--times", "4"]).await;
    assert_eq!(
        (&report["hand_over"]["count"], &report["bare"]["count"]),
        (&4.into(), &4.into()),
        "{report:#}"
    );
    assert_eq!(report["parts"].as_object().unwrap().len(), 10, "{report:#}");
}

#[tokio::test]
async fn a_server_to_play_with_is_up_until_it_is_interrupted() {
    let lab = lab(&["testbed", "up", "postgres"]);
    let url = lab.wait_for_line("postgres://", LIMIT).await.unwrap();
    lab.wait_for_line("Ctrl-C", LIMIT).await.unwrap();
    let look = || {
        Process::command("psql")
            .unwrap()
            .args([url.trim(), "-c", "TABLE coordination_leases"])
            .spawn()
            .unwrap()
    };
    assert!(look().wait(LIMIT).await.unwrap().success());
    lab.signal(Signal::INT).unwrap();
    assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(130));
    assert!(!look().wait(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn a_server_that_somebody_runs_is_judged_as_an_ordinary_role_and_left_as_it_was() {
    let (server, worker) = server_with_worker(90).await;
    let (url, admin) = (worker.as_str(), server.url());
    let args = ["conformance", "--mode", "postgres", "--url", url, "--admin-url", &admin];
    // A lost reply needs the fault proxy, a process its orders, a resource the administrator.
    for group in ["unknown::a_lost_reply", "process::a_holder_stopped", "fence::"] {
        let (code, report) = report(&[&args[..], &["--filter", group]].concat()).await;
        assert_eq!(code, Some(0), "{report:#}");
        let cases = report["cases"].as_array().unwrap();
        assert!(cases.iter().all(|case| case["verdict"]["passed"].is_object()), "{report:#}");
    }
    nothing_is_left(&server).await;
}

#[tokio::test]
async fn a_verdict_is_told_although_what_the_suite_made_cannot_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let args = ["conformance", "--mode", "sqlite", "--folder", path, "--filter", "process::a_holder_stopped"];
    let judged = report(&args);
    // It is renamed before it is removed, and a folder that isn't empty is in the way of that.
    let in_the_way = wait_until("the suite has made its folder", LIMIT, async || {
        let made = std::fs::read_dir(folder.path()).unwrap().next();
        made.is_some_and(|made| std::fs::create_dir_all(made.unwrap().path().join("done/full")).is_ok())
    });
    let ((code, report), in_the_way) = tokio::join!(judged, in_the_way);
    in_the_way.unwrap();
    assert_eq!(code, Some(1), "{report:#}");
    assert!(report["cases"][0]["verdict"]["passed"].is_object(), "{report:#}");
}

/// In the process group of this test: the kernel would end stopped actors of a group that lost its last parent.
fn judging_where_a_holder_is_stopped(store: &[&str]) -> Child {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_leasehold-lab"));
    lab.arg("conformance").args(store).args(["--filter", "process::a_holder_stopped"]);
    lab.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// An actor that is slow to start would make its resource again when all is dropped.
#[tokio::test]
async fn a_judgement_that_is_interrupted_drops_its_schemas() {
    let (server, worker) = server_with_worker(90).await;
    let admin = server.url();
    let mut lab =
        judging_where_a_holder_is_stopped(&["--mode", "postgres", "--url", &worker, "--admin-url", &admin]);
    let actor = wait_for("an actor starts", LIMIT, async || actors(&lab).pop().ok_or("none")).await.unwrap();
    kill_process(actor, Signal::STOP).unwrap();
    ends_by(&mut lab, Signal::INT, Some(130)).await;
    let _ = kill_process(actor, Signal::CONT);
    is_dead(actor).await;
    nothing_is_left(&server).await;
}

/// Stopped, it does not see that its standard input has ended.
#[tokio::test]
async fn no_actor_that_is_stopped_outlives_the_judgement() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let mut lab = judging_where_a_holder_is_stopped(&["--mode", "sqlite"]);
        let actor = wait_for("an actor is stopped", LIMIT, async || {
            actors(&lab).into_iter().find(|actor| state(*actor) == Some('T')).ok_or("none")
        });
        let actor = actor.await.unwrap();
        ends_by(&mut lab, signal, code).await;
        is_dead(actor).await;
    }
}

async fn ends_by(lab: &mut Child, signal: Signal, code: Option<i32>) {
    kill_process(Pid::from_raw(lab.id().unwrap() as i32).unwrap(), signal).unwrap();
    assert_eq!(timeout(LIMIT, lab.wait()).await.unwrap().unwrap().code(), code);
}

async fn is_dead(pid: Pid) {
    let dead = async || matches!(state(pid), None | Some('Z'));
    wait_until("the actor is dead", LIMIT, dead).await.unwrap();
}

/// The suite's actors in processes of their own.
fn actors(lab: &Child) -> Vec<Pid> {
    let is_actor = |pid: &Pid| {
        let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        arguments.is_ok_and(|arguments| arguments.contains("\0actor\0"))
    };
    lab.id().into_iter().flat_map(children).filter(is_actor).collect()
}

/// The processes whose parent is `pid`.
fn children(pid: u32) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let of_each = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids = |pids: String| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>();
    of_each.flat_map(pids).filter_map(Pid::from_raw).collect()
}

/// `T` is stopped, `Z` is dead.
fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // Its name is in parentheses, and may hold some.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

#[tokio::test]
async fn an_interruption_does_not_wait_for_servers_that_are_still_starting() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["conformance", "--mode", "k8s"][..], &["testbed", "up", "k8s"]] {
        let lab = Process::command(env!("CARGO_BIN_EXE_leasehold-lab")).unwrap();
        let lab = lab.args(args).env("TMPDIR", folder.path()).spawn().unwrap();
        let starts = async || !children(lab.id()).is_empty() && walk(folder.path()) > 2;
        wait_until("something is started", LIMIT, starts).await.unwrap();
        lab.signal(Signal::INT).unwrap();
        assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(130), "{:#?}", lab.lines());
        let started = |line: &String| line.contains("is up") || line.contains("the suite works in");
        assert!(!lab.lines().iter().any(started), "{:#?}", lab.lines());
        wait_until("nothing is left", LIMIT, async || walk(folder.path()) == 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_without_room_for_the_suite_is_told_before_anything_starts() {
    let (server, worker) = server_with_worker(30).await;
    let lab = lab(&["conformance", "--mode", "postgres", "--url", &worker, "--admin-url", &server.url()]);
    assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(2));
    let told = lab.wait_for_line("connection limit of the role worker = 30", LIMIT).await.unwrap();
    assert!(told.contains("at least 48"), "{told}");
    nothing_is_left(&server).await;
}

async fn server_with_worker(connection_limit: u32) -> (Postgres, String) {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    server.create_role("worker", "secret").await.unwrap();
    server.psql(&format!("ALTER ROLE worker CONNECTION LIMIT {connection_limit}")).await.unwrap();
    let url = server.url_for("postgres", "worker", "secret");
    (server, url)
}

async fn nothing_is_left(server: &Postgres) {
    let left = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'leasehold%'";
    assert_eq!(server.psql(left).await.unwrap(), "");
}

#[tokio::test]
async fn an_interrupted_run_ends_what_it_started_and_removes_what_it_made() {
    // Its output once it is running.
    for (args, under_way) in [
        (&["chaos", "--mode", "postgres", "--takeovers", "100000"][..], "takeovers after"),
        (&["failover", "--mode", "sqlite", "--ttl", "20s"], ""),
        (&["handover", "--mode", "postgres", "--times", "100000"], ""),
        (&["demo", "--mode", "sqlite"], "starting the stores"),
    ] {
        for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::KILL, None)] {
            let folder = tempfile::tempdir().unwrap();
            let lab = Process::command(env!("CARGO_BIN_EXE_leasehold-lab")).unwrap();
            let lab = lab.args(args).env("TMPDIR", folder.path()).spawn().unwrap();
            let made = || walk(folder.path());
            wait_until("there is something to remove", LIMIT, async || made() > 2).await.unwrap();
            if !under_way.is_empty() {
                lab.wait_for_line(under_way, LIMIT).await.unwrap();
            }
            lab.signal(signal).unwrap();
            assert_eq!(lab.wait(LIMIT).await.unwrap().code(), code, "{args:?}: {:#?}", lab.lines());
            // The supervisor, which outlives a killed run, takes a moment.
            wait_until(&format!("{args:?} leaves nothing"), LIMIT, async || made() == 0).await.unwrap();
        }
    }
}

/// The number of files and folders below.
fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.filter_map(Result::ok).map(|entry| 1 + walk(&entry.path())).sum()
}

#[test]
fn the_table_of_what_differs_is_made_from_the_stores_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lab = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold-lab"));
    let made = { lab }.args(["conformance", "--table"]).output().unwrap();
    let (made, kept) = (String::from_utf8(made.stdout).unwrap(), root.join("docs/conformance.md"));
    let kept = std::fs::read_to_string(kept).unwrap();
    assert_eq!(made, kept, "run leasehold-lab conformance --table > docs/conformance.md");
    for store in std::fs::read_dir(root.join("conformance/stores")).unwrap() {
        let name = store.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(kept.contains(&format!("| {name} |")), "{name} has data and no column");
    }
}

#[test]
fn the_page_of_campaigns_is_made_from_the_runs_that_were_recorded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let lab = std::process::Command::new(env!("CARGO_BIN_EXE_leasehold-lab"));
    let made = { lab }.current_dir(root).args(["campaign", "page"]).output().unwrap();
    let kept = std::fs::read_to_string(root.join("docs/campaigns.md")).unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    assert_eq!(made, kept, "run leasehold-lab campaign page > docs/campaigns.md");
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_starts() {
    for (args, told) in [
        (&["chaos", "--mode", "oracle"][..], "sqlite"),
        (&["chaos", "--mode", "sqlite", "--ttl", "5"], "unit"),
        (&["chaos", "--mode", "sqlite", "--ttl", "1ms"], "500ms"),
        (&["chaos", "--mode", "sqlite", "--takeovers", "0"], "1.."),
        (&["failover", "--mode", "postgres", "--ttl", "soon"], "2s"),
        (&["attack", "--mode", "sqlite", "--ttl", "2s..1s"], "1s..2s"),
        (&["attack", "--mode", "k8s"], "postgres"),
        (&["handover", "--mode", "sqlite"], "postgres"),
        (&["testbed", "up", "oracle"], "postgres"),
    ] {
        let lab = lab(args);
        assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(2), "{args:?}");
        lab.wait_for_line(told, LIMIT).await.unwrap();
    }
}

/// The checks of a drill that failed; `checks` are judged in all.
async fn failed_checks(drill: &str, checks: usize, args: &[&str]) -> (Option<i32>, Vec<String>) {
    let (code, report) = report(&[&["drill", drill], args].concat()).await;
    let verdicts = report["told"]["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), checks, "{report:#}");
    let failed = verdicts.iter().filter(|verdict| verdict["holds"] == false);
    (code, failed.map(|verdict| verdict["check"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test]
async fn a_lease_lost_in_the_middle_of_a_batch_costs_nothing() {
    for mode in ["sqlite", "postgres"] {
        assert_eq!(
            failed_checks("lease-lost-mid-batch", 7, &["--mode", mode]).await,
            (Some(0), vec![]),
            "{mode}"
        );
    }
}

#[tokio::test]
async fn each_check_of_lease_lost_mid_batch_fails_when_what_it_defends_is_broken() {
    let broken = async |sabotage| {
        let (code, failed) = failed_checks("lease-lost-mid-batch", 7, &["--sabotage", sabotage]).await;
        assert_eq!(code, Some(1), "{sabotage}");
        failed
    };
    let (admission, late_row, no_successor, short_pause, unique_key) = tokio::join!(
        broken("admission"),
        broken("late-row"),
        broken("no-successor"),
        broken("short-pause"),
        broken("unique-key"),
    );
    let sees = |failed: &[String], check: &str| failed.iter().any(|failed| failed.contains(check));
    assert!(sees(&admission, "every late write was refused"), "{admission:?}");
    assert!(
        sees(&late_row, "no effect of the old term follows the first one of the new term"),
        "{late_row:?}"
    );
    assert!(sees(&no_successor, "another pod took over"), "{no_successor:?}");
    assert!(sees(&no_successor, "taken_over row"), "{no_successor:?}");
    assert!(sees(&short_pause, "its warning comes before any write"), "{short_pause:?}");
    assert!(sees(&short_pause, "leads again"), "{short_pause:?}");
    assert!(sees(&unique_key, "no row is lost"), "{unique_key:?}");
}

#[tokio::test]
async fn two_of_everything_lose_and_double_nothing_when_each_leader_is_killed() {
    assert_eq!(failed_checks("multi-pod", 10, &["--mode", "postgres"]).await, (Some(0), vec![]));
}

#[tokio::test]
async fn each_check_of_multi_pod_fails_when_what_it_defends_is_broken() {
    let broken = async |checks, sabotage| {
        // SQLite makes a register at the first look, so there is none that could lack.
        let mode = if sabotage == "no-register" { "postgres" } else { "sqlite" };
        let args = ["--mode", mode, "--sabotage", sabotage];
        let (code, failed) = failed_checks("multi-pod", checks, &args).await;
        assert_eq!(code, Some(1), "{sabotage}");
        failed
    };
    let (alone, late_row, unswept) =
        tokio::join!(broken(6, "no-successor"), broken(10, "late-row"), broken(10, "no-sweeper"));
    let (stray, nobody) = tokio::join!(broken(10, "stray-epoch"), broken(1, "no-register"));
    let sees = |failed: &[String], check: &str| failed.iter().any(|failed| failed.contains(check));
    for check in
        ["leads outbox-forwarder", "leads ttl-sweeper", "taken_over row", "the other sidecar", "one promote"]
    {
        assert!(sees(&alone, check), "{check}: {alone:?}");
    }
    assert!(sees(&late_row, "each audit row is one canonical event"), "{late_row:?}");
    assert!(sees(&unswept, "every reservation is committed or swept"), "{unswept:?}");
    assert!(sees(&unswept, "reserved = committed + released"), "{unswept:?}");
    assert!(sees(&stray, "an epoch that its writer never held"), "{stray:?}");
    assert!(sees(&nobody, "exactly one leader of each lease"), "{nobody:?}");
}

#[tokio::test]
async fn each_book_that_a_storm_leaves_is_seen_to_be_wrong_when_it_is() {
    let broken = async |sabotage| {
        let args = ["--takeovers", "25", "--seed", "7", "--sabotage", sabotage];
        let (code, failed) = failed_checks("storm", 13, &args).await;
        assert_eq!(code, Some(1), "{sabotage}");
        failed
    };
    let (admission, budget, event) =
        tokio::join!(broken("admission"), broken("budget"), broken("lost-event"));
    let sees = |failed: &[String], check: &str| failed.iter().any(|failed| failed.contains(check));
    assert!(sees(&admission, "the epoch that its writer held when it wrote"), "{admission:?}");
    assert!(sees(&budget, "no budget was ever overdrawn"), "{budget:?}");
    assert!(sees(&budget, "requests exceeded a budget, and were refused"), "{budget:?}");
    assert!(sees(&event, "exactly one canonical event"), "{event:?}");
    assert!(sees(&event, "each audit row is one canonical event"), "{event:?}");
}

#[tokio::test]
async fn a_demotion_that_is_none_and_an_endpoint_that_is_not_turned_are_seen() {
    let broken = async |checks, sabotage| {
        let (code, failed) = failed_checks("demoted", checks, &["--short", "--sabotage", sabotage]).await;
        assert_eq!(code, Some(1), "{sabotage}");
        failed
    };
    let not_turned = broken(4, "not-turned").await;
    assert_eq!(not_turned, ["every role writes to the new primary within 10s"]);
    let not_demoted = broken(3, "not-demoted").await;
    assert_eq!(not_demoted, ["while nobody can write, nobody is ready and no age is shown"]);
}

#[tokio::test]
async fn an_attack_whose_guards_can_not_start_ends_at_once_and_says_what_they_said() {
    let folder = lease_testbed::Folder::new("refusing").unwrap();
    let lab = folder.path().join("leasehold-lab");
    std::fs::hard_link(env!("CARGO_BIN_EXE_leasehold-lab"), &lab)
        .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_leasehold-lab"), &lab).map(drop))
        .unwrap();
    let guard = folder.path().join("leasehold");
    std::fs::write(&guard, "#!/bin/sh\necho no such setting >&2; exit 2\n").unwrap();
    std::fs::set_permissions(&guard, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let attack = Process::command(lab).unwrap().args(["attack", "--mode", "sqlite", "--leases", "1"]);
    let attack = attack.spawn().unwrap();
    let status = attack.wait(Duration::from_secs(60)).await.expect("of two minutes");
    assert_eq!(status.code(), Some(1), "{:?}", attack.lines());
    assert!(attack.lines().iter().any(|line| line.contains("no such setting")), "{:?}", attack.lines());
}
