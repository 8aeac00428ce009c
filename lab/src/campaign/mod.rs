//! `leasehold-lab campaign`: what all runs together have shown, line by line in a file that runs append to.

mod entry;
mod page;
mod simulation;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;
use tokio::process::Command;

use self::entry::{CampaignEntry, RunCounts};

/// What a run adds to the campaign's totals: a part of its JSON report.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CampaignCounts {
    /// Terms that began in a real store.
    pub(crate) acquisitions: usize,
    /// Faults that real processes or their store suffered.
    pub(crate) faults: usize,
}

/// Run something and append its seed, command and counts to docs/campaigns.jsonl; print what all runs have shown
#[derive(Clone, Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  leasehold-lab campaign run chaos --mode postgres --takeovers 5000
  leasehold-lab campaign simulate --fleets 20000 --renewals 1000000
  leasehold-lab campaign page > docs/campaigns.md")]
pub(crate) enum CampaignCommand {
    /// Another command of this program that counts acquisitions and faults: chaos, attack, torture lock-set, upgrade
    Run(RecordedArgs),
    /// Fleets of step functions in simulated time
    Simulate(simulation::Args),
    /// The page docs/campaigns.md
    Page(FileArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FileArgs {
    /// The file that has one run a line
    #[arg(long, default_value = "docs/campaigns.jsonl")]
    file: PathBuf,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecordedArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    words: Vec<String>,
}

pub(crate) async fn run(campaign: CampaignCommand) -> anyhow::Result<ExitCode> {
    let (file, shown) = match campaign {
        CampaignCommand::Page(FileArgs { file }) => {
            print!("{}", page::of(&entry::read(&file)?));
            return Ok(ExitCode::SUCCESS);
        }
        CampaignCommand::Run(RecordedArgs { file, words }) => (file.file, real(&words).await?),
        CampaignCommand::Simulate(args) => (args.file.file.clone(), simulation::run(&args).await?),
    };
    let mut holds = true;
    for (command, holding, shown) in shown {
        holds &= holding;
        entry::append(&file, &CampaignEntry::of_now(command, holding, shown)?)?;
    }
    eprint!("{}", page::totals(&entry::read(&file)?));
    Ok(crate::exit_code(holds))
}

/// A run's command, whether all of its verdicts hold, and its counts.
type Ran = (String, bool, RunCounts);

/// Runs another command of this program.
async fn real(words: &[String]) -> anyhow::Result<Vec<Ran>> {
    let program = std::env::current_exe().context("cannot find this program again")?;
    let report = output(&program, words.iter().map(String::as_str).chain(["--json"]), &[]).await?;
    let report: Value = serde_json::from_str(&report).context("the command printed no report as JSON")?;
    let text = |of: &Value| of.as_str().map(str::to_owned);
    let counts = &report["campaign"];
    let (acquisitions, faults) = (counts["acquisitions"].as_u64(), counts["faults"].as_u64());
    let (acquisitions, faults) = acquisitions.zip(faults).context(
        "this command's report has no counts for a campaign: use chaos, attack, torture lock-set or upgrade",
    )?;
    let command = text(&report["repeat"]).context("its report does not say how to repeat it")?;
    let took_secs = report["took_secs"].as_f64().unwrap_or_default().round() as u64;
    let store = text(&report["mode"]).unwrap_or_else(|| "all".to_owned());
    let holds = report["holds"].as_bool().context("its report has no verdict")?;
    Ok(vec![(command, holds, RunCounts::Real { store, acquisitions, faults, took_secs })])
}

/// The standard output of a program that may fail by its verdicts; what it says besides is shown meanwhile.
async fn output(
    program: &Path,
    words: impl Iterator<Item = &str>,
    environment: &[(&str, String)],
) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(words).envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let ended = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let ended = ended.wait_with_output().await?;
    let said = String::from_utf8(ended.stdout).context("it printed something that is not text")?;
    ensure!(matches!(ended.status.code(), Some(0 | 1 | 101)), "it ended with {}: {said}", ended.status);
    Ok(said)
}
