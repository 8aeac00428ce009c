//! Child processes: lines, signals, exit codes; ports and waiting.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use lease_testbed::{Folder, Process, Signal, free_port, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

fn sh(script: &str) -> anyhow::Result<Process> {
    Process::command("sh")?.args(["-c", script]).spawn()
}

#[tokio::test]
async fn lines_of_both_streams_are_awaited_and_the_exit_code_is_the_childs() -> anyhow::Result<()> {
    let process = sh("echo one; echo two >&2; exit 7")?;
    assert_eq!(process.wait_for_line("tw", LIMIT).await?, "two");
    assert_eq!(process.wait_for_line("one", LIMIT).await?, "one");
    assert_eq!(process.wait(LIMIT).await?.code(), Some(7));
    let error = process.wait_for_line("three", LIMIT).await.unwrap_err().to_string();
    assert!(error.contains("sh has ended without printing \"three\"") && error.contains("two"), "{error}");
    assert!(process.signal(Signal::TERM).is_err(), "its pid may be another's");
    Ok(())
}

#[tokio::test]
async fn only_lines_after_the_mark_count() -> anyhow::Result<()> {
    let process = sh("trap 'echo tick' USR1; echo tick; while :; do sleep 0.01; done")?;
    process.wait_for_line("tick", LIMIT).await?;
    let mark = process.line_count();
    let none = process.wait_for_line_after(mark, "tick", Duration::from_millis(100)).await;
    assert!(none.unwrap_err().to_string().contains("timed out after 100ms waiting for \"tick\" from sh"));
    process.signal(Signal::USR1)?;
    process.wait_for_line_after(mark, "tick", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn real_signals_arrive() -> anyhow::Result<()> {
    let process = sh("trap 'echo stopping; exit 3' TERM; echo ready; while :; do sleep 0.01; done")?;
    process.wait_for_line("ready", LIMIT).await?;
    process.signal(Signal::TERM)?;
    process.wait_for_line("stopping", LIMIT).await?;
    assert_eq!(process.wait(LIMIT).await?.code(), Some(3));

    let process = sh("while :; do echo beat; sleep 0.01; done")?;
    process.wait_for_line("beat", LIMIT).await?;
    assert_eq!(process.kill().await?.signal(), Some(9));
    Ok(())
}

#[tokio::test]
async fn a_paused_process_does_nothing_until_it_is_resumed() -> anyhow::Result<()> {
    let folder = Folder::new("process")?;
    let file = folder.path().join("beats");
    let process = sh(&format!("while :; do echo beat >> {}; sleep 0.01; done", file.display()))?;
    let beats = || std::fs::metadata(&file).map_or(0, |data| data.len());
    wait_until("it beats", LIMIT, async || beats() > 0).await?;
    process.pause().await?;
    // A file has what was written at once; a pipe might still bring what was written before.
    let before = beats();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(beats(), before, "a stopped process wrote");
    process.resume()?;
    wait_until("it beats again", LIMIT, async || beats() > before).await
}

#[tokio::test]
async fn the_environment_and_the_folder_are_as_asked() -> anyhow::Result<()> {
    let process = Process::command("sh")?
        .args(["-c", "echo in $(pwd); echo home=${HOME-none} lease=$LEASE; cat; echo end"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LEASE", "a b")
        .current_dir("/")
        .spawn()?;
    process.wait_for_line("end", LIMIT).await?;
    assert_eq!(process.lines(), ["in /", "home=none lease=a b", "end"]);
    Ok(())
}

#[tokio::test]
async fn dropping_kills_the_whole_group() -> anyhow::Result<()> {
    let process = sh("sleep 600 & echo child $!; wait")?;
    let line = process.wait_for_line("child", LIMIT).await?;
    let child = rustix::process::Pid::from_raw(line.trim_start_matches("child ").parse()?).unwrap();
    rustix::process::test_kill_process(child)?;
    drop(process);
    let gone = async || rustix::process::test_kill_process(child).is_err();
    wait_until("the grandchild has gone", LIMIT, gone).await
}

#[tokio::test]
async fn a_program_that_is_run_returns_its_output_or_all_it_printed() -> anyhow::Result<()> {
    let run = async |script: &str| Process::command("sh")?.args(["-c", script]).run(LIMIT).await;
    assert_eq!(run("echo one; echo two >&2; echo three").await?, ["one", "three"]);
    let error = run("echo one; echo two >&2; exit 3").await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("one") && error.contains("two"), "{error}");
    Ok(())
}

#[test]
fn a_missing_program_is_named() {
    let error = Process::command("no-such-program").unwrap_err().to_string();
    assert!(error.contains("there is no program no-such-program"), "{error}");
}

#[tokio::test]
async fn a_timeout_names_the_awaited_condition() {
    let limit = Duration::from_millis(50);
    let error = wait_until("the moon is full", limit, async || false).await.unwrap_err().to_string();
    assert_eq!(error, "timed out after 50ms waiting for: the moon is full");
    let attempt = async || Err::<(), _>("cloudy");
    let error = wait_for("the moon is full", limit, attempt).await.unwrap_err().to_string();
    assert!(error.ends_with("the moon is full; the last attempt: \"cloudy\""), "{error}");
    let never = wait_until("time passes", limit, std::future::pending);
    assert!(never.await.is_err(), "an attempt that hangs is bounded by the limit too");
}

#[tokio::test]
async fn a_free_port_is_given_once_and_can_be_listened_on_again_and_again() -> anyhow::Result<()> {
    let ports: Vec<u16> = (0..200).map(|_| free_port()).collect::<Result<_, _>>()?;
    let different: std::collections::HashSet<&u16> = ports.iter().collect();
    assert_eq!(different.len(), ports.len());
    for _ in 0..2 {
        // A process that another test starts has the earlier listener as well, from its fork to its exec.
        let listen = || tokio::net::TcpListener::bind(("127.0.0.1", ports[0]));
        let listener = wait_for("the port can be listened on", LIMIT, listen).await?;
        let (client, server) =
            tokio::join!(tokio::net::TcpStream::connect(listener.local_addr()?), listener.accept());
        drop((client?, server?));
    }
    Ok(())
}
