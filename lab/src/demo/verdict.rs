//! The verdicts: each claim judged by what is in the stores, not by what the programs say.

use lease_core::HistoryRow;
use serde::Serialize;

use super::TTL;
use super::gaps::{self, is_grant};
use super::screen::{Screen, grouped};
use super::script::Played;
use super::stores::DemoStores;
use super::timeline;
use super::witness::TermEffects;
use crate::epoch::epoch_in_words;

/// The delay that a busy machine may add to a failover, at the start and at the end of a write.
const MACHINE_MS: i64 = 250;

/// One claim.
#[derive(Debug, Serialize)]
struct Verdict {
    claim: &'static str,
    holds: bool,
    seen: String,
}

/// The outcome of a demo.
#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    /// Every verdict holds.
    pub(super) holds: bool,
    ttl_ms: u128,
    verdicts: Vec<Verdict>,
    /// Release to the successor's first fenced rows, by the released epoch.
    handover_ms: Vec<(u64, i64)>,
    /// Kill to the successor's grant, by the killed epoch.
    failover_ms: Vec<(u64, i64)>,
    played: Played,
    terms: Vec<TermEffects>,
    history: Vec<HistoryRow>,
    #[serde(skip)]
    picture: String,
}

/// Judges what was left behind.
pub(super) async fn judge(
    stores: &DemoStores,
    played: Played,
    screen: &Screen,
) -> anyhow::Result<DemoReport> {
    let witness = stores.witness();
    let (history, terms) = (witness.history().await?, witness.terms().await?);
    let handover_ms = gaps::handovers(&witness, &played.stops).await?;
    let failover_ms = gaps::failovers(&witness, &played.kills).await?;
    let mut verdicts = Vec::new();
    let mut add = |claim, holds, seen| verdicts.push(Verdict { claim, holds, seen });

    let (keys, first, last) = witness.keys().await?;
    let (ingested, pending) = (witness.ingested().await?, witness.pending().await?);
    let exact = keys == ingested && keys == played.written && first == 0 && last + 1 == played.written as i64;
    add(
        "every row arrived exactly once",
        exact && pending == 0,
        format!(
            "{} written, {} ingested, {} distinct keys, {pending} still pending",
            grouped(played.written),
            grouped(ingested),
            grouped(keys)
        ),
    );
    add(
        "rows that were sent twice were rejected as duplicates",
        played.duplicates > 0,
        format!("{} duplicates received, none stored", grouped(played.duplicates)),
    );
    let pause = &played.pause;
    add(
        "the fence refused the late write of the woken leader",
        pause.request_held && pause.refused > 0 && played.fence_refused > 0,
        format!(
            "epoch {}: {} refused (FENCING_EPOCH_STALE)",
            epoch_in_words(pause.epoch),
            played.fence_refused
        ),
    );
    add(
        "the woken leader noticed its expired lease before the refusal, and kept running",
        pause.warned_first && pause.survived,
        "it logged \"lease expired locally; skip batch until renewed\" and is a standby again".to_owned(),
    );
    let grants: Vec<_> = history.iter().filter(|row| is_grant(row)).map(|row| row.epoch).collect();
    let rising = grants.windows(2).all(|pair| pair[0] < pair[1]);
    let expected = played.stops.len() + played.kills.len() + 2;
    add(
        "each leader's epoch is greater than the one before",
        rising && grants.len() >= expected,
        format!(
            "{} grants: epochs {}",
            grants.len(),
            list(&grants.iter().map(|epoch| epoch_in_words(*epoch)).collect::<Vec<_>>())
        ),
    );
    let apart = terms.windows(2).all(|pair| pair[0].last_id < pair[1].first_id);
    let marks = witness.marks_out_of_order().await?;
    let known = terms.iter().all(|term| grants.contains(&term.epoch));
    add(
        "there were never two leaders at a time, judged by their effects",
        apart && known && marks == 0,
        format!("in the order of {} rows, no epoch follows a greater one", grouped(ingested)),
    );
    let third = TTL.as_millis() as i64 / 3;
    let gaps: Vec<_> = handover_ms.iter().map(|(_, gap)| *gap).collect();
    add(
        "a leader that is asked to stop hands over immediately",
        gaps.len() == played.stops.len() && gaps.iter().all(|gap| (0..third).contains(gap)),
        format!("{} ms from its release to the successor's first fenced rows", list(&gaps)),
    );
    // T-2 and T-4: ttl·(1 + 1/500) after the last beat seen, and one poll, which with a live watch is ttl/3.
    let ttl = TTL.as_millis() as i64;
    let bound = ttl + ttl / 500 + ttl / 3 + MACHINE_MS;
    let gaps: Vec<_> = failover_ms.iter().map(|(_, gap)| *gap).collect();
    add(
        "a leader that is killed is replaced in time",
        gaps.len() == played.kills.len() && gaps.iter().all(|gap| *gap <= bound),
        format!(
            "{} ms from the kill to the next grant; allowed: ttl·(1+1/500) + one poll = {bound} ms",
            list(&gaps)
        ),
    );
    let clean = played.exits.iter().all(|(_, code, _)| *code == Some(0));
    let slowest = played.exits.iter().map(|(_, _, took)| *took).max().unwrap_or(0);
    add(
        "every program that is asked to stop exits with code 0",
        clean && played.exits.len() == played.stops.len() + 4,
        format!("{} clean exits, the slowest took {slowest} ms", played.exits.len()),
    );
    Ok(DemoReport {
        holds: verdicts.iter().all(|verdict| verdict.holds),
        ttl_ms: TTL.as_millis(),
        verdicts,
        handover_ms,
        failover_ms,
        played,
        terms,
        history,
        picture: timeline::picture(&screen.board().samples()),
    })
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl DemoReport {
    /// Prints picture and verdicts.
    pub(super) fn show(&self, screen: &Screen) {
        screen.line(&format!("\n{}\n", self.picture));
        for Verdict { claim, holds, seen } in &self.verdicts {
            let mark = if *holds { console::style("✓").green() } else { console::style("✗").red() }.bold();
            screen.line(&format!("  {mark} {claim}"));
            screen.note(&format!("      {seen}"));
        }
        let verdict = if self.holds {
            console::style("every verdict holds").green()
        } else {
            console::style("a verdict does NOT hold").red()
        };
        screen.line(&format!("\n  {}", verdict.bold()));
    }
}
