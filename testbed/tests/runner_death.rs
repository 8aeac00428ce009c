//! Nothing outlives its runner. The runner is this very program, started again as a child.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use lease_testbed::{
    Etcd, EtcdOptions, Postgres, PostgresOptions, Process, Signal, StandbyOptions, wait_until,
};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::Pid;

const LIMIT: Duration = Duration::from_secs(60);
const ROLE: &str = "TESTBED_RUNNER_ROLE";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Ok(role) = std::env::var(ROLE) {
        return runtime.block_on(runner(&role));
    }
    let trial = |name, role: &'static str, signal: Option<Signal>| {
        let handle = runtime.handle().clone();
        Trial::test(name, move || {
            handle
                .block_on(nothing_survives(role, signal))
                .map_err(|error| Failed::from(format!("{error:?}")))
        })
    };
    let trials = vec![
        trial("nothing_survives_a_killed_runner", "servers", Some(Signal::KILL)),
        trial("nothing_survives_ctrl_c", "servers", Some(Signal::INT)),
        trial("paused_servers_do_not_survive_a_killed_runner", "paused", Some(Signal::KILL)),
        trial("nothing_survives_a_panic", "panic", None),
        trial("nothing_survives_a_runner_that_exits_without_dropping", "exit", None),
        trial("nothing_survives_a_runner_killed_while_it_starts_a_server", "starting", Some(Signal::KILL)),
        trial("a_runner_within_a_killed_runner_cleans_up_too", "nested", Some(Signal::KILL)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}

/// Prints what must not survive, then ends as its role says, or waits to be killed.
async fn runner(role: &str) -> anyhow::Result<()> {
    if role == "nested" {
        let inner = Process::command(std::env::current_exe()?)?.env(ROLE, "servers").spawn()?;
        inner.wait_for_line("ready", LIMIT).await?;
        for line in inner.lines() {
            println!("{line}");
        }
        return std::future::pending().await;
    }
    if role == "starting" {
        let folder = Process::command("sh")?; // has the supervisor started; nothing runs yet
        println!("ready");
        drop(folder);
        loop {
            let starts =
                (0..4).map(|_| tokio::spawn(Postgres::start(PostgresOptions::default().fsync(false))));
            for start in starts.collect::<Vec<_>>() {
                start.await??;
            }
        }
    }
    // Spawned on a thread that ends at once: what follows a thread's death would be seen here.
    let (postgres, standby, etcd) = tokio::task::spawn_blocking(|| {
        tokio::runtime::Handle::current().block_on(async {
            let postgres = Postgres::start(PostgresOptions::default()).await?;
            let standby = postgres.standby(StandbyOptions::asynchronous("standby")).await?;
            let etcd = Etcd::start(EtcdOptions::default().nodes(3)).await?;
            anyhow::Ok((postgres, standby, etcd))
        })
    })
    .await??;
    // A grandchild in a session of its own, and one that ignores whatever can be ignored.
    let process = Process::command("sh")?
        .args([
            "-c",
            "trap '' TERM INT HUP; setsid sleep 600 & echo pid $!; echo pid $$; while :; do sleep 1; done",
        ])
        .spawn()?;
    process.wait_for_line(&format!("pid {}", process.id()), LIMIT).await?;
    for line in process.lines() {
        println!("{line}");
    }
    for server in [&postgres, &standby] {
        println!("folder {}", server.socket_dir().display());
        let file = std::fs::read_to_string(server.data_dir().join("postmaster.pid"))?;
        println!("pid {}", file.lines().next().context("an empty lock file")?);
        for pid in
            postgres.psql("select pid from pg_stat_activity where backend_type not in ('client backend', 'autovacuum worker')").await?.lines()
        {
            println!("pid {pid}");
        }
    }
    for member in etcd.members() {
        println!("pid {}", member.process_id().context("a node that doesn't run")?);
    }
    if role == "paused" {
        etcd.members()[0].pause().await?;
        postgres.pause().await?;
        standby.pause().await?;
        process.pause().await?;
    }
    println!("ready");
    match role {
        "panic" => panic!("as planned"),
        "exit" => std::process::exit(0),
        _ => std::future::pending().await,
    }
}

async fn nothing_survives(role: &str, signal: Option<Signal>) -> anyhow::Result<()> {
    // A folder for temporary files of its own: what is left in it at the end is what survived.
    let folder = temporary_folder(&format!("{role}{signal:?}"))?;
    // A shell's background job ignores SIGINT, and so does whatever it starts, these tests' runner too.
    let runner = Process::command("env")?
        .arg("--default-signal=INT")
        .arg(std::env::current_exe()?.display().to_string())
        .env(ROLE, role)
        .env("TMPDIR", &folder)
        .spawn()?;
    runner.wait_for_line("ready", LIMIT).await?;
    if role == "starting" {
        let some = || entries(&folder).iter().any(|root| !entries(root).is_empty());
        wait_until("it has begun to start servers", LIMIT, async || some()).await?;
    }
    let lines = runner.lines();
    let pids = lines
        .iter()
        .filter_map(|line| line.strip_prefix("pid ")?.trim().parse().ok())
        .filter_map(Pid::from_raw);
    let mut pids: Vec<Pid> = pids.collect();
    let folders: Vec<PathBuf> =
        lines.iter().filter_map(|line| Some(line.strip_prefix("folder ")?.into())).collect();
    if role != "starting" {
        assert!(pids.len() > 8 && folders.len() == 2, "the runner printed too little: {lines:?}");
    }
    if let Some(signal) = signal {
        for pid in &pids {
            assert!(!has_gone(*pid), "{pid:?} has ended too early");
        }
        assert!(folders.iter().all(|folder| folder.is_dir()));
        runner.signal(signal)?;
    }
    runner.wait(LIMIT).await?;

    pids.retain(|pid| !has_gone(*pid));
    wait_until("all processes have gone", LIMIT, async || pids.iter().all(|pid| has_gone(*pid))).await?;
    let clean = || entries(&folder).is_empty() && working_below(&folder).is_empty();
    wait_until("the folders have gone", LIMIT, async || clean()).await?;
    std::fs::remove_dir(&folder)?;
    Ok(())
}

fn temporary_folder(trial: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let folder = std::env::temp_dir().join(format!("runner-{trial}-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Processes whose working directory is below a folder; empty where there is no /proc.
fn working_below(folder: &Path) -> Vec<PathBuf> {
    let works_below =
        |process: &PathBuf| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    entries(Path::new("/proc")).into_iter().filter(works_below).collect()
}

/// Gone, or a zombie that its new parent hasn't collected yet.
fn has_gone(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let zombie =
        stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('Z')));
    zombie || rustix::process::test_kill_process(pid).is_err()
}
