//! The standard modes. A program of your own adds others with [`Cli::with_mode`](crate::Cli::with_mode).

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "k8s")]
mod k8s;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use lease_settings::{LeaseStore, Modes};

/// The modes that the program was built with.
pub(crate) fn standard() -> Modes {
    let mut modes = Modes::default();
    macro_rules! mode {
        ($feature:literal, $mode:path) => {
            #[cfg(feature = $feature)]
            modes.add($mode);
            #[cfg(not(feature = $feature))]
            modes.leave_out($feature);
        };
    }
    mode!("sqlite", sqlite::SqliteMode);
    mode!("postgres", postgres::PostgresMode);
    mode!("etcd", etcd::EtcdMode);
    mode!("k8s", k8s::K8sMode);
    modes
}

/// Refuses a store that is a file, and isn't there: opening it would create it.
pub(crate) fn must_exist(store: &LeaseStore) -> Result<(), String> {
    match store.file() {
        Some(file) if !file.exists() => Err(format!(
            "there is no lease file {}: check its path, or run `leasehold init` to create it",
            file.display()
        )),
        _ => Ok(()),
    }
}
