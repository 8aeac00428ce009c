//! `leasehold-lab torture`: known ways to lose data by trusting a lock, played on etcd's own lock and on ours.

mod lock_set;

use std::process::ExitCode;

pub(crate) use self::lock_set::worker;

/// Known ways to lose data by trusting a lock, played on real processes
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Torture {
    LockSet(lock_set::Args),
}

pub(crate) async fn run(torture: Torture) -> anyhow::Result<ExitCode> {
    match torture {
        Torture::LockSet(args) => lock_set::run(args).await,
    }
}
