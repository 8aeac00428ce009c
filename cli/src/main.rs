//! `leasehold`: workers, the guard and the operator's commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasehold::Cli::new().run()
}
