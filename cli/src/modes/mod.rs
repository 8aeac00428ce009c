//! The standard modes. A program of your own adds others with [`Cli::with_mode`](crate::Cli::with_mode).

mod etcd;
mod k8s;
mod postgres;
mod sqlite;

use lease_settings::{LeaseStore, Modes};

/// The modes that the program ships with.
pub(crate) fn standard() -> Modes {
    let mut modes = Modes::default();
    modes.add(sqlite::Sqlite);
    modes.add(postgres::Postgres);
    modes.add(etcd::Etcd);
    modes.add(k8s::K8s);
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
