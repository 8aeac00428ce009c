//! The events of the demo, act by act.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lease_core::WallTime;
use lease_testbed::{Signal, wait_for, wait_until};
use serde::Serialize;

use super::gaps;
use super::programs::{PATIENCE, Programs, metric};
use super::screen::{Condition, Screen};
use super::stores::DemoStores;
use super::timeline::NAMES;
use super::witness::Witness;
use super::writer::DemoWriter;
use crate::epoch::epoch_in_words;
use crate::pause::pause;

/// Between acts, so that one sees the work going on.
const BREATH: Duration = Duration::from_secs(3);

/// The script's own records; everything else is in the stores.
#[derive(Debug, Default, Serialize)]
pub(super) struct Played {
    /// Rows that the ledger wrote.
    pub(super) written: u64,
    /// Epochs whose leader was asked to stop.
    pub(super) stops: Vec<u64>,
    /// Epochs whose leader was killed, and when (milliseconds since 1970).
    pub(super) kills: Vec<(u64, i64)>,
    /// The pause.
    pub(super) pause: Pause,
    /// Each program that was asked to stop: name, exit code, milliseconds.
    pub(super) exits: Vec<(String, Option<i32>, u64)>,
    /// By the ingest's own count.
    pub(super) duplicates: u64,
    /// By the ingest's own count.
    pub(super) fence_refused: u64,
}

/// The leader that was paused, and woken after its lease had expired.
#[derive(Debug, Default, Serialize)]
pub(super) struct Pause {
    /// Its epoch.
    pub(super) epoch: u64,
    /// Its request was still on its way when it was paused.
    pub(super) request_held: bool,
    /// The number of its late writes that were refused.
    pub(super) refused: u64,
    /// It said that its lease had expired before it said anything about a late write.
    pub(super) warned_first: bool,
    /// The same process leads or stands by: it did not crash.
    pub(super) survived: bool,
}

/// Plays it.
pub(super) async fn play(
    stores: &DemoStores,
    programs: &mut Programs,
    writer: DemoWriter,
    screen: &Screen,
) -> anyhow::Result<Played> {
    let witness = stores.witness();
    let mut played = Played::default();
    first_rows(&witness, 0).await.context("nobody began to lead")?;
    tokio::time::sleep(BREATH).await;

    screen
        .act("① the leader is asked to stop (SIGTERM), three times: it finishes its batch, releases, exits");
    for _ in 0..3 {
        stop_leader(&witness, programs, screen, &mut played).await?;
        tokio::time::sleep(BREATH).await;
    }
    screen.act("② the leader is killed (SIGKILL), twice: it releases nothing, so a standby waits until the lease expires");
    for at_its_worst in [false, true] {
        kill_leader(&witness, programs, screen, &mut played, at_its_worst).await?;
        tokio::time::sleep(BREATH).await;
    }
    screen.act("③ the leader is paused in the middle of a request (SIGSTOP) and woken when another leads");
    pause_leader(&witness, programs, screen, &mut played).await?;
    tokio::time::sleep(BREATH).await;

    screen.act("④ the ledger finishes, the outbox drains, everybody is asked to stop");
    played.written = writer.finish().await?;
    wait_until("the outbox is empty", PATIENCE * 4, || async {
        witness.pending().await.is_ok_and(|pending| pending == 0)
    })
    .await?;
    stop_everybody(&witness, programs, screen, &mut played).await?;
    Ok(played)
}

async fn leader(witness: &Witness) -> anyhow::Result<(usize, u64)> {
    wait_for("somebody leads", PATIENCE, || async {
        let (holder, epoch) = witness.holder().await?.context("the lease is free")?;
        let number = NAMES.iter().position(|name| *name == holder).context("a stranger leads")?;
        anyhow::Ok((number, epoch))
    })
    .await
}

/// Waits for the first rows of a term after `epoch`; returns that term's epoch.
async fn first_rows(witness: &Witness, epoch: u64) -> anyhow::Result<u64> {
    wait_for(&format!("rows of a term after epoch {epoch}"), PATIENCE, || async {
        let newest = witness.newest_epoch().await?;
        ensure!(newest > epoch, "the newest row is of epoch {newest}");
        Ok(newest)
    })
    .await
}

async fn stop_leader(
    witness: &Witness,
    programs: &mut Programs,
    screen: &Screen,
    played: &mut Played,
) -> anyhow::Result<()> {
    let (number, epoch) = leader(witness).await?;
    screen.say(&format!("SIGTERM → {}", NAMES[number]));
    stop(programs, number, played).await?;
    screen.board().set(number, Condition::Stopped);
    first_rows(witness, epoch).await?;
    played.stops.push(epoch);
    if let Some((_, gap)) = gaps::handovers(witness, &[epoch]).await?.first() {
        screen.say(&format!("        {gap} ms from its release to the next leader's first fenced rows"));
    }
    programs.restart(number).await
}

async fn stop(programs: &Programs, number: usize, played: &mut Played) -> anyhow::Result<()> {
    let process = &programs.forwarder(number).process;
    let began = Instant::now();
    process.signal(Signal::TERM)?;
    let status = process.wait(PATIENCE).await?;
    played.exits.push((NAMES[number].to_owned(), status.code(), began.elapsed().as_millis() as u64));
    Ok(())
}

async fn kill_leader(
    witness: &Witness,
    programs: &mut Programs,
    screen: &Screen,
    played: &mut Played,
    at_its_worst: bool,
) -> anyhow::Result<()> {
    let (number, epoch) = leader(witness).await?;
    let name = NAMES[number];
    if at_its_worst {
        let mut lost =
            programs.forwarder(number).proxy.lose_reply(|request| request.contains("POST /v1/events"));
        lost.lost().await?;
        screen.say(&format!(
            "SIGKILL → {name}, after the ingest has stored its batch and before the outbox knows"
        ));
    } else {
        screen.say(&format!("SIGKILL → {name}"));
    }
    let at = WallTime::now().0;
    programs.forwarder(number).process.kill().await?;
    screen.board().set(number, Condition::Killed);
    first_rows(witness, epoch).await?;
    played.kills.push((epoch, at));
    if let Some((_, gap)) = gaps::failovers(witness, &[(epoch, at)]).await?.first() {
        screen.say(&format!("        {gap} ms from the kill to the next leader's grant"));
    }
    programs.restart(number).await
}

async fn pause_leader(
    witness: &Witness,
    programs: &mut Programs,
    screen: &Screen,
    played: &mut Played,
) -> anyhow::Result<()> {
    let (number, epoch) = leader(witness).await?;
    let forwarder = programs.forwarder(number);
    let (name, process) = (NAMES[number], &forwarder.process);
    // The request is held on its way, so that its sender has certainly passed its own check and not yet been answered.
    let mut hold = forwarder.proxy.hold(|request| request.contains("POST /v1/events"));
    hold.held().await?;
    played.pause = Pause { epoch, request_held: true, ..Pause::default() };
    let lines = process.line_count();
    pause(&programs.forwarder(number).process, witness.lease_file.as_deref()).await?;
    screen.board().set(number, Condition::Paused);
    screen.say(&format!("SIGSTOP → {name}, with a batch in flight to the ingest (delayed in the network)"));
    let next = epoch_in_words(first_rows(witness, epoch).await?);
    screen.say(&format!(
        "        epoch {next} has sent rows; now the old batch arrives and {name} is resumed (SIGCONT)"
    ));
    hold.release();
    process.resume()?;
    screen.board().set(number, Condition::Up);

    let refusal =
        process.wait_for_line_after(lines, "a late write was refused by the fence", PATIENCE).await?;
    let later = process.lines().split_off(lines);
    let line_of = |text: &str| later.iter().position(|line| line.contains(text));
    let (warning, refused) =
        (line_of("lease expired locally; skip batch until renewed"), line_of("a late write was"));
    played.pause.warned_first =
        matches!((warning, refused), (Some(warning), Some(refused)) if warning < refused);
    for line in [warning, refused].into_iter().flatten() {
        let said = later[line].split_once("forwarder::lead: ").map_or(later[line].as_str(), |(_, said)| said);
        screen.say(&format!("        {name}: {said}"));
    }
    ensure!(
        refusal.contains("FENCING_EPOCH_STALE"),
        "the refusal lacks the code FENCING_EPOCH_STALE: {refusal}"
    );
    played.pause.refused =
        metric(&forwarder.address, "spendguard_outbox_forwarder_skip_total{reason=\"fence_refused\"}")
            .await?;
    played.pause.survived = process.exit_status().is_none();
    Ok(())
}

/// Standbys first, so that nobody takes over any more.
async fn stop_everybody(
    witness: &Witness,
    programs: &Programs,
    screen: &Screen,
    played: &mut Played,
) -> anyhow::Result<()> {
    let (last, _) = leader(witness).await?;
    for number in (0..NAMES.len()).filter(|number| *number != last).chain([last]) {
        stop(programs, number, played).await?;
        screen.board().set(number, Condition::Stopped);
    }
    played.duplicates = programs.ingest_metric("spendguard_canonical_ingest_events_duplicate_total").await?;
    played.fence_refused = programs.ingest_metric("spendguard_canonical_ingest_fence_refused_total").await?;
    let began = Instant::now();
    programs.ingest().signal(Signal::TERM)?;
    let status = programs.ingest().wait(PATIENCE).await?;
    played.exits.push(("canonical-ingest".to_owned(), status.code(), began.elapsed().as_millis() as u64));
    Ok(())
}
