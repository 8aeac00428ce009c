//! `leasehold step-down`: ask the holder to hand over, and wait for its answer (H-2).

use std::process::ExitCode;
use std::time::Duration;

use lease_core::{HistoryEvent, LeaseName, Record, RequestId, admin};
use lease_settings::{App, Failure, Together, parse_millis};
use lease_worker_common::shutdown;
use serde_json::json;

use super::output::{line, span};
use super::session::{Session, Target};
use super::wakes::RegisterWakes;

/// Ask the holder to finish its work and give the lease up, and wait until it has
///
/// The holder drains, then releases; its release carries the request's id, which is the answer that this waits for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold step-down outbox-forwarder
  leasehold step-down outbox-forwarder --wait 2m
  leasehold step-down outbox-forwarder --wait 0s      ask, and don't wait

Exit code 1 if the holder has not answered in time; the request stays until its term ends.")]
pub(crate) struct StepDown {
    /// The longest wait for the answer; 0s doesn't wait
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = wait, allow_hyphen_values = true)]
    wait: Duration,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// The lease [default: leaderElection.leaseName]
    #[arg(id = "LEASE")]
    lease: Option<LeaseName>,
}

fn wait(text: &str) -> Result<Duration, String> {
    let millis = parse_millis(text).and_then(|millis| u64::try_from(millis).ok());
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| "use a time with its unit, for example 30s or 2m".to_owned())
}

/// The end of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepDownAnswer {
    /// The holder released because it was asked to.
    SteppedDown,
    /// The term ended in another way: it ran out, or was revoked.
    Over,
    /// Not yet.
    None,
}

pub(super) fn run(args: &StepDown, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings());
    let (name, by, target) = (name, app.settings().operator(), Target::of(app)).together()?;
    app.block_on(async {
        let session = target.connect().await?;
        let (id, written) = session.change(admin::request_step_down(&*session.backend, &name, &by)).await?;
        let asked = written.record.ok_or_else(|| Failure::new("the store answered without a record"))?;
        if asked.holder.is_empty() {
            return Err(Failure::new(format!(
                "nobody holds lease {name}, so nobody can step down: candidates take it after watching it, see \
                 `leasehold status {name}`"
            )));
        }
        let answer = if args.wait.is_zero() {
            StepDownAnswer::None
        } else {
            if !args.json {
                line(format!("asked {} to step down (request {id}); waiting for its answer", asked.holder))?;
            }
            let stop = shutdown::token().map_err(|error| Failure::new(error.to_string()))?;
            tokio::select! {
                answer = wait_for_answer(&session, &name, &asked, id) => answer?,
                () = tokio::time::sleep(args.wait) => StepDownAnswer::None,
                () = stop.cancelled() => StepDownAnswer::None,
            }
        };
        tell(args, &name, &asked, id, answer)
    })
}

async fn wait_for_answer(
    session: &Session,
    name: &LeaseName,
    asked: &Record,
    id: RequestId,
) -> Result<StepDownAnswer, Failure> {
    let mut wakes = RegisterWakes::new(session, name.as_str(), Duration::from_millis(200)).await;
    loop {
        let seen = session.read(session.backend.observe(name)).await?;
        match seen.record {
            Some(now) if now.answered == Some(id) => return Ok(StepDownAnswer::SteppedDown),
            Some(now) if now.grant == asked.grant => wakes.next().await,
            // A successor was faster than this look; the history knows how the term ended.
            _ => {
                if !session.backend.capabilities().history {
                    return Ok(StepDownAnswer::Over);
                }
                let rows = session.read(session.backend.history(name, 100)).await?;
                let answered = |row: &lease_core::HistoryRow| {
                    row.epoch == asked.epoch && row.event_type == HistoryEvent::SteppedDown
                };
                return Ok(if rows.iter().any(answered) {
                    StepDownAnswer::SteppedDown
                } else {
                    StepDownAnswer::Over
                });
            }
        }
    }
}

fn tell(
    args: &StepDown,
    name: &LeaseName,
    asked: &Record,
    id: RequestId,
    answer: StepDownAnswer,
) -> Result<ExitCode, Failure> {
    let word = match answer {
        StepDownAnswer::SteppedDown => "stepped_down",
        StepDownAnswer::Over => "over",
        StepDownAnswer::None => "pending",
    };
    let waited = !args.wait.is_zero();
    let code = if answer == StepDownAnswer::None && waited { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    let holder = &asked.holder;
    if args.json {
        line(
            json!({ "lease": name, "request": id, "holder": holder, "epoch": asked.epoch, "answer": word }),
        )?;
        return Ok(code);
    }
    match answer {
        StepDownAnswer::SteppedDown => line(format!("{holder} stepped down: lease {name} was released"))?,
        StepDownAnswer::Over => line(format!(
            "{holder} no longer holds lease {name}: its term ended, but not by this request (it ran out, or was revoked)"
        ))?,
        StepDownAnswer::None if !waited => line(format!(
            "asked {holder} to step down (request {id}); `leasehold status {name}` shows whether it has"
        ))?,
        StepDownAnswer::None => {
            return Err(Failure::new(format!(
                "{holder} has not answered within {}. the request stays: it steps down as soon as it can. if it is dead, \
                 the lease runs out {} after its last beat; `leasehold watch {name}` shows whether it beats, and \
                 `leasehold revoke {name}` ends its term",
                span(args.wait),
                span(asked.ttl()),
            )));
        }
    }
    Ok(code)
}
