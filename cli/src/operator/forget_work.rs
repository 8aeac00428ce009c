//! `leasehold forget-work`: the work that a lease was for is gone for good (W-1).

use std::process::ExitCode;

use lease_core::{LeaseName, admin};
use lease_settings::{App, Failure};
use serde_json::json;

use super::output::line;
use super::session::Target;

/// Free a lease's name for other work
///
/// A lease remembers the work that it was first taken for, and nobody takes it for another one. This is for work that is
/// gone for good: its database was dropped, its program is not used any more. A holder goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  leasehold forget-work outbox-forwarder")]
pub(crate) struct ForgetWork {
    /// Write JSON, one line a lease
    #[arg(long)]
    json: bool,
    /// The leases [default: leaderElection.leaseName]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

pub(super) fn run(args: &ForgetWork, app: &App) -> Result<ExitCode, Failure> {
    let leases = match args.leases.as_slice() {
        [] => vec![super::lease(None, app.settings())?],
        leases => leases.to_vec(),
    };
    let target = Target::of(app)?;
    app.block_on(async {
        let session = target.connect().await?;
        for name in &leases {
            let (work, _) = session.change(admin::forget_work(&*session.backend, name)).await?;
            match (work, args.json) {
                (work, true) => line(json!({ "lease": name, "forgotten": work }))?,
                (Some(work), false) => {
                    line(format!("lease {name} was for {work}; it is for whichever work takes it next"))?;
                }
                (None, false) => line(format!("lease {name} was for no work that it remembers"))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
