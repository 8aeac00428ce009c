//! docs/run-by-hand.md, line by line, in one folder.

use std::path::Path;

use anyhow::Context;
use lease_testbed::{Process, Signal};
use tempfile::TempDir;
use tokio::process::Command;

use crate::page::Section;
use crate::site::LIMIT;

const BINARY: &str = env!("CARGO_BIN_EXE_leasehold");

struct Hands {
    folder: TempDir,
    config: String,
}

impl Hands {
    /// The variable that the page exports.
    fn new(export: &str) -> anyhow::Result<Self> {
        let file = export.strip_prefix("export LEASEHOLD_CONFIG=").context("the settings file")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
        Ok(Self { folder: tempfile::tempdir()?, config: root.join(file).display().to_string() })
    }

    /// Runs a line to its end; what it printed.
    async fn run(&self, line: &str) -> anyhow::Result<String> {
        let bin = Path::new(BINARY).parent().context("a folder")?.display();
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().env("PATH", format!("{bin}:/usr/bin:/bin"));
        shell.env("LEASEHOLD_CONFIG", &self.config).env("LEASEHOLD_WORKLOAD_ID", "operator");
        let done = tokio::time::timeout(LIMIT, shell.current_dir(&self.folder).kill_on_drop(true).output());
        let done = done.await.with_context(|| format!("{line} takes too long"))??;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        anyhow::ensure!(done.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&done.stderr));
        Ok(said)
    }

    /// Starts a line that goes on.
    fn start(&self, line: &str) -> anyhow::Result<Process> {
        let words = line.split_whitespace().skip(1).collect::<Vec<_>>();
        let command = Process::command(BINARY)?.args(&words).env_clear().env("PATH", "/usr/bin:/bin");
        let command = command.env("LEASEHOLD_CONFIG", &self.config).env("LEASEHOLD_WORKLOAD_ID", "operator");
        command.current_dir(self.folder.path()).spawn()
    }
}

fn says(said: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(said.contains(part), "{part:?} is missing in: {said}"));
}

#[tokio::test]
async fn the_page_about_a_run_by_hand_comes_true() -> anyhow::Result<()> {
    let mut page = Section::by_hand("Settings");
    let hands = Hands::new(page.next("export"))?;
    says(&hands.run(page.next("leasehold config")).await?, &["ttlMs = 6000", "# file: leaderElection.ttlMs"]);
    says(&hands.run(page.next("leasehold plan")).await?, &["6s"]);
    page.end();

    let mut page = Section::by_hand("Two candidates");
    says(&hands.run(page.next("leasehold init")).await?, &["lease nightly was created, free"]);
    let first = hands.start(page.next("leasehold run"))?;
    first.wait_for_line("command started", LIMIT).await?;
    let second = hands.start(page.next("leasehold run"))?;
    second.wait_for_line("standing by", LIMIT).await?;
    page.end();

    let mut page = Section::by_hand("Look");
    says(&hands.run(page.next("leasehold status")).await?, &["LAST BEAT", "nightly", "held", "first"]);
    says(&hands.run(page.next("leasehold status -o wide")).await?, &["GRANT", "first"]);
    says(&hands.run(page.next("leasehold status nightly")).await?, &["nightly: held by first since"]);
    let watching = hands.start(page.next("leasehold status --watch"))?;
    watching.wait_for_line("first", LIMIT).await?;
    page.end();

    let mut page = Section::by_hand("Hand over");
    says(&hands.run(page.next("leasehold step-down")).await?, &["first stepped down"]);
    second.wait_for_line("command started", LIMIT).await?;
    watching.wait_for_line("second", LIMIT).await?;
    says(&hands.run(page.next("leasehold status")).await?, &["held", "second"]);
    says(&hands.run(page.next("leasehold history")).await?, &["stepped_down  first", "taken_over    second"]);
    page.end();
    watching.signal(Signal::INT)?;
    assert_eq!(watching.wait(LIMIT).await?.code(), Some(0));
    for candidate in [first, second] {
        candidate.signal(Signal::TERM)?;
        candidate.wait(LIMIT).await?;
    }

    let mut page = Section::by_hand("Your shell");
    hands.run(page.next("leasehold completions")).await?;
    hands.run(page.next("leasehold man")).await?;
    page.end();
    for made in ["leasehold.bash", "man1/leasehold.1", "man1/leasehold-status.1"] {
        assert!(hands.folder.path().join(made).exists(), "{made}");
    }
    Ok(())
}
