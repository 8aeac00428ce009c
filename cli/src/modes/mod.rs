//! The standard modes. A program of your own adds others with [`Cli::with_mode`](crate::Cli::with_mode).

mod etcd;
mod k8s;
mod postgres;
mod sqlite;

use lease_settings::Modes;

/// The modes that the program ships with.
pub(crate) fn standard() -> Modes {
    let mut modes = Modes::default();
    modes.add(sqlite::Sqlite);
    modes.add(postgres::Postgres);
    modes.add(etcd::Etcd);
    modes.add(k8s::K8s);
    modes
}
