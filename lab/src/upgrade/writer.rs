//! The guarded command of an upgrade: it makes fenced effects for as long as it runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lease_core::Term;
use lease_stores::Place;

/// The argument of a process that is such a command; the resource and the version of its guard follow.
const WRITER_COMMAND: &str = "upgrade-writer";

/// The variable that holds the place, as JSON: `leasehold` refuses variables of its own prefix that it doesn't know.
pub(super) const PLACE: &str = "UPGRADED_PLACE";

/// The pause between two effects.
const EFFECT_EVERY: Duration = Duration::from_millis(30);

/// Between the version and the rest of an effect's name.
const OF: char = '/';

/// The words of a command whose guard is of this version.
pub(super) fn words(resource: &str, version: &str) -> [String; 3] {
    [WRITER_COMMAND, resource, version].map(str::to_owned)
}

/// The version of the guard of an effect's author.
pub(super) fn version_of(effect: &str) -> Option<&str> {
    effect.split_once(OF).map(|(version, _)| version)
}

/// Is this process such a command? Then this is all that it does.
pub(crate) fn writer() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    (words.next()? == WRITER_COMMAND).then(|| {
        let (resource, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        write(&resource, &version).map_or_else(
            |error| {
                eprintln!("{WRITER_COMMAND}: {error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        )
    })
}

fn write(resource: &str, version: &str) -> anyhow::Result<()> {
    let told = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let term = Term { epoch: told("LEASEHOLD_EPOCH")?.parse()?, grant: told("LEASEHOLD_GRANT")?.parse()? };
    let place: Place =
        serde_json::from_str(&told(PLACE)?).with_context(|| format!("{PLACE} is not a place"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let resource = place.resource(resource).await?;
        for number in 0_u64.. {
            // A refused term is over, and its guard ends this process in time; so is one whose store doesn't answer.
            let _ = resource.effect(term, &format!("{version}{OF}{}{OF}{number}", term.epoch)).await;
            tokio::time::sleep(EFFECT_EVERY).await;
        }
        Ok(())
    })
}
