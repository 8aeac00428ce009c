//! The text of a `postgresql.conf`.

use std::path::Path;

/// Settings of `postgresql.conf` in the order in which they were made: the last of one name counts.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerSettings(Vec<(String, String)>);

impl ServerSettings {
    pub(super) fn set(&mut self, name: String, value: String) {
        self.0.push((name, value));
    }

    pub(super) fn path(&mut self, name: &str, path: &Path) {
        self.set(name.to_owned(), path.display().to_string());
    }

    pub(super) fn extend(&mut self, others: &Self) {
        self.0.extend_from_slice(&others.0);
    }

    /// The text of a `postgresql.conf`.
    pub(super) fn to_conf(&self) -> String {
        let line = |(name, value): &(String, String)| format!("{name} = '{}'\n", value.replace('\'', "''"));
        self.0.iter().map(line).collect()
    }
}
