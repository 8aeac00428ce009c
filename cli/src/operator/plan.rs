//! `leasehold plan`: the meaning of the settings, by the elector's own arithmetic. Connects to nothing.

use std::process::ExitCode;
use std::time::Duration;

use lease_core::internal::deadline::RHO_DIVISOR;
use lease_core::{BackendError, Timing};
use lease_settings::{App, Failure};
use serde_json::json;

use super::output::{line, span};

/// Say what ttl, renew and retry mean: failover, load, tolerated outage, clocks
///
/// It takes the settings of a worker and asks no store. Settings that a worker would refuse are refused.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Round trips to the store come on top of each time. Rates are for one lease; multiply them by your leases.

Examples:
  leasehold plan --ttl 15s
  leasehold plan --ttl 6s --renew-interval 1s --standbys 4 --json"
)]
pub(crate) struct ShowPlan {
    /// The number of candidates that wait beside the leader
    #[arg(long, default_value_t = 2, value_name = "NUMBER")]
    standbys: u32,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ShowPlan, app: &App) -> Result<ExitCode, Failure> {
    let never = || async { Err(BackendError::refused("a plan asks no store")) };
    let plan = app.settings().elector(never, Some("plan"), |builder| builder)?.timing();
    if args.json {
        line(as_json(&plan, args.standbys))?;
    } else {
        as_text(&plan, args.standbys).lines().try_for_each(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn rate(per_second: f64) -> String {
    format!("{per_second:.3}/s")
}

fn as_text(plan: &Timing, standbys: u32) -> String {
    let all = f64::from(standbys);
    let (watching, polling) =
        (plan.standby_reads_per_second_watching(), plan.standby_reads_per_second_polling());
    format!(
        "\
ttl {}, renewed every {}, looked at every {}; work is told to stop {} before its deadline

failover after a crash, at worst
  {} with a live watch, {} without: a candidate waits {} from when it saw
  the last beat, which is at most one look after it was written
  {} where nobody knows the last holder: after `init`, or a failover of the store
  after a clean stop, a step-down or a revoke of a dead holder: milliseconds with a watch, {} without

load on the store, for this one lease
  leader      {} writes, no reads
  {standbys} standbys  {} reads with a live watch, {} without; no writes

outage of the store that is tolerated, begun at the worst moment
  up to {}: nobody notices
  up to {}: the term goes on, but its work is told to stop and starts anew
  longer: the leader stops acting {} after its last acknowledged beat was sent

clocks
  only the rate of each machine's own clock matters, suspend included: off by less than 1/{RHO_DIVISOR}
  ({} in this ttl). Wall clocks, time zones and steps decide nothing. A machine that is paused between its
  check and its write is caught by the fence, and by nothing else",
        span(plan.ttl),
        span(plan.renew_every),
        span(plan.retry_every),
        span(plan.stop_grace),
        span(plan.failover_watching),
        span(plan.failover_polling),
        span(plan.waited_out_for),
        span(plan.unknown_holder_waited_out_for),
        span(plan.retry_every),
        rate(plan.leader_writes_per_second()),
        rate(watching * all),
        rate(polling * all),
        span(plan.outage_unnoticed),
        span(plan.outage_survived),
        span(plan.acted_on_for),
        span(plan.ttl.saturating_sub(plan.acted_on_for)),
    )
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

fn as_json(plan: &Timing, standbys: u32) -> serde_json::Value {
    let all = f64::from(standbys);
    json!({
        "ttl_ms": millis(plan.ttl),
        "max_ttl_ms": millis(plan.max_ttl),
        "renew_interval_ms": millis(plan.renew_every),
        "retry_interval_ms": millis(plan.retry_every),
        "stop_grace_ms": millis(plan.stop_grace),
        "stop_budget_ms": millis(plan.stop_budget),
        "failover_worst_ms": {
            "watching": millis(plan.failover_watching),
            "polling": millis(plan.failover_polling),
            "unknown_holder": millis(plan.unknown_holder_waited_out_for),
        },
        "load_per_second": {
            "standbys": standbys,
            "leader_writes": plan.leader_writes_per_second(),
            "leader_reads": 0,
            "standbys_writes": 0,
            "standbys_reads_watching": plan.standby_reads_per_second_watching() * all,
            "standbys_reads_polling": plan.standby_reads_per_second_polling() * all,
        },
        "tolerated_outage_ms": {
            "unnoticed": millis(plan.outage_unnoticed),
            "survived": millis(plan.outage_survived),
        },
        "acted_on_for_ms": millis(plan.acted_on_for),
        "waited_out_for_ms": millis(plan.waited_out_for),
        "clock_rate_error_below": 1.0 / f64::from(RHO_DIVISOR),
    })
}
