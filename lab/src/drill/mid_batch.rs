//! The leader is stopped past its ttl, between its check and its effect, and continued when another leads.

use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::HistoryEvent;
use lease_stores::{postgres, sqlite};
use lease_testbed::{Proxy, wait_for};
use lease_worker_common::database::Database;

use super::Sabotage;
use super::pods::{PATIENCE, Worker, operator};
use super::report::DrillReport;
use crate::demo::stores::DemoStores;
use crate::demo::witness::Witness;
use crate::demo::{DemoWriter, TTL};
use crate::epoch::epoch_in_words;
use crate::pause::pause;

const WARNING: &str = "lease expired locally; skip batch until renewed";
const REFUSED: &str = "a late write was refused by the fence";

/// The time limit of a wait; short where this sabotage keeps the awaited event from happening.
fn limit(sabotage: Option<Sabotage>, keeps_away: &[Sabotage]) -> Duration {
    let kept_away = sabotage.is_some_and(|sabotage| keeps_away.contains(&sabotage));
    if kept_away { Duration::from_secs(6) } else { PATIENCE * 4 }
}

pub(super) async fn play(
    stores: &DemoStores,
    sabotage: Option<Sabotage>,
    report: &DrillReport,
) -> anyhow::Result<()> {
    let witness = stores.witness();
    let ingest = Worker::ingest(stores).await?;
    let proxy = Proxy::tcp(ingest.address.parse()?)?;
    let old = Worker::forwarder(stores, "old-leader", &stores.outbox, &proxy.addr().to_string()).await?;
    let epoch = term_after(&witness, 0, PATIENCE).await.context("nobody leads")?;
    report.step(format!("old-leader leads in epoch {}, and a ledger writes rows", epoch_in_words(epoch)));
    // The request is held on its way: its sender has passed its own check, and has not been answered.
    let mut hold = proxy.hold(|request| request.contains("POST /v1/events"));
    let written = DemoWriter::start(&stores.outbox, Default::default(), 2_000, 2_000).await?;
    hold.held().await?;
    if sabotage == Some(Sabotage::Admission) {
        admit_everybody(&stores.outbox).await?;
        admit_everybody(&stores.canonical).await?;
        report.step("SABOTAGE: both stores admit every term from now on");
    }
    if sabotage == Some(Sabotage::UniqueKey) {
        witness.drop_unique_key(&stores.canonical).await?;
        report.step("SABOTAGE: the canonical store has lost its unique key");
    }
    let new = match sabotage {
        Some(Sabotage::NoSuccessor) => None,
        _ => Some(Worker::forwarder(stores, "new-leader", &stores.outbox, &ingest.address).await?),
    };
    let lines = old.process.line_count();
    pause(&old.process, witness.lease_file.as_deref()).await?;
    report.step("SIGSTOP -> old-leader, with a batch in flight to canonical-ingest");
    let successor = match sabotage {
        Some(Sabotage::ShortPause) => None,
        _ => {
            let never = [Sabotage::NoSuccessor, Sabotage::UniqueKey];
            rows_after(&witness, epoch, limit(sabotage, &never)).await.ok()
        }
    };
    if let Some(next) = successor {
        report.step(format!(
            "the ttl of {} s has expired: epoch {} leads and writes",
            TTL.as_secs(),
            epoch_in_words(next)
        ));
    }
    hold.release();
    old.process.resume()?;
    report.step("the held batch is delivered, and SIGCONT -> old-leader");
    let shown = operator(stores, &["status", "outbox-forwarder", "--json"]).await?;
    report.check(
        "another pod took over, and `leasehold status` names it",
        successor.is_some() && shown.contains("new-leader"),
        successor.map_or("nobody took over".to_owned(), |next| {
            format!("new-leader, epoch {}", epoch_in_words(next))
        }),
    );
    let never = [Sabotage::Admission, Sabotage::NoSuccessor, Sabotage::ShortPause, Sabotage::UniqueKey];
    let refused = old.process.wait_for_line_after(lines, REFUSED, limit(sabotage, &never)).await;
    let (warned, late) = (old.line_of(lines, WARNING), old.line_of(lines, REFUSED));
    report.check(
        "its warning comes before any write of the old term",
        warned.is_some() && late.is_none_or(|late| warned < Some(late)),
        match warned {
            Some(line) => {
                old.process.lines()[line].split_once("WARN").map_or("", |(_, said)| said).trim().to_owned()
            }
            None => format!("it did not log {WARNING:?}"),
        },
    );
    let metric = "spendguard_outbox_forwarder_skip_total{reason=\"fence_refused\"}";
    let refusals = old.metric(metric).await.unwrap_or(0);
    report.check(
        "every late write was refused",
        refused.as_ref().is_ok_and(|line| line.contains("FENCING_EPOCH_STALE")) && refusals >= 1,
        format!("its metric counts {refusals} refusals; FENCING_EPOCH_STALE in its log: {}", refused.is_ok()),
    );
    if sabotage == Some(Sabotage::LateRow) {
        witness.add_row_of(&stores.canonical, epoch).await?;
        report.step("SABOTAGE: a row of the old term is put into the canonical store");
    }
    // Deterministic from here on: all is told by what the stores have.
    let written = written.finish().await?;
    let arrived = wait_for("every row has arrived", limit(sabotage, &[Sabotage::UniqueKey]), || async {
        let (keys, pending) = (witness.keys().await?.0, witness.pending().await?);
        ensure!(keys >= written && pending == 0, "{keys} of {written} have arrived, {pending} are pending");
        anyhow::Ok(keys)
    })
    .await;
    let events = witness.ingested().await?;
    report.check(
        "no row is lost or duplicated",
        arrived.is_ok() && events == written,
        format!(
            "{written} written, {events} in the canonical store{}",
            arrived.err().map_or(String::new(), |why| format!("; {why:#}"))
        ),
    );
    let terms = witness.terms().await?;
    let apart = terms.windows(2).all(|pair| pair[0].last_id < pair[1].first_id);
    let (marks, rows_of_old) =
        (witness.marks_out_of_order().await?, terms.iter().find(|term| term.epoch == epoch));
    report.check(
        "no effect of the old term follows the first one of the new term",
        apart && marks == 0,
        format!(
            "{} rows of the old term, all before; {marks} rows were marked out of order",
            rows_of_old.map_or(0, |term| term.rows)
        ),
    );
    let history = witness.history().await?;
    let takeovers: Vec<_> = history.iter().filter(|row| row.event_type == HistoryEvent::TakenOver).collect();
    let counted = takeovers.iter().all(|row| {
        history
            .iter()
            .rfind(|before| before.sequence < row.sequence)
            .is_none_or(|before| before.transition_count + 1 == row.transition_count)
    });
    report.check(
        "the history has a taken_over row with the next transition number",
        !takeovers.is_empty() && counted,
        takeovers
            .iter()
            .map(|row| format!("{} by {}", row.transition_count, row.holder_workload_id))
            .collect::<Vec<_>>()
            .join(", "),
    );
    if let Some(new) = new {
        new.process.kill().await?;
        report.step("SIGKILL -> new-leader: old-leader must lead again");
    }
    let again =
        term_after(&witness, successor.unwrap_or(epoch), limit(sabotage, &[Sabotage::ShortPause])).await;
    report.check(
        "the old leader has not crashed, and leads again",
        old.process.exit_status().is_none() && again.is_ok(),
        again.map_or_else(
            |error| format!("{error:#}"),
            |epoch| format!("old-leader, epoch {}", epoch_in_words(epoch)),
        ),
    );
    Ok(())
}

/// Waits until somebody holds the lease in a later epoch.
async fn term_after(witness: &Witness, epoch: u64, limit: Duration) -> anyhow::Result<u64> {
    wait_for(&format!("a term after epoch {}", epoch_in_words(epoch)), limit, || async {
        let (_, now) = witness.holder().await?.context("the lease is free")?;
        ensure!(now > epoch, "the newest is epoch {}", epoch_in_words(now));
        Ok(now)
    })
    .await
}

/// Waits until the canonical store has rows of a later term: then its fence knows of that term.
async fn rows_after(witness: &Witness, epoch: u64, limit: Duration) -> anyhow::Result<u64> {
    wait_for(&format!("rows of a term after epoch {}", epoch_in_words(epoch)), limit, || async {
        let newest = witness.newest_epoch().await?;
        ensure!(newest > epoch, "the newest row is of epoch {}", epoch_in_words(newest));
        Ok(newest)
    })
    .await
}

/// Breaks the fences of a worker's database.
async fn admit_everybody(database: &str) -> anyhow::Result<()> {
    match database.parse().map_err(anyhow::Error::msg)? {
        Database::Sqlite(file) => sqlite::admit_everybody(&file).await,
        Database::Postgres(_) => postgres::admit_everybody(database, "public").await,
    }
}
