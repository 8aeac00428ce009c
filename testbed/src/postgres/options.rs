//! The options of a server and of a standby.

use std::net::SocketAddr;

use super::{archive::WalArchive, settings::ServerSettings};

/// The options of a PostgreSQL server. The default is an ordinary one, whose commits wait for the disk, with 100
/// connections and, since it is quick to make, a system identifier that other servers share.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    pub(super) fresh_system_identifier: bool,
    pub(super) archive: Option<WalArchive>,
    pub(super) tls: bool,
    pub(super) settings: ServerSettings,
}

/// A streaming standby's options; see [`Postgres::standby`](super::Postgres::standby).
#[derive(Clone, Debug)]
pub struct StandbyOptions {
    pub(super) name: String,
    pub(super) synchronous: bool,
    pub(super) primary: Option<SocketAddr>,
    pub(super) settings: ServerSettings,
}

// === impl PostgresOptions ===

impl Default for PostgresOptions {
    fn default() -> Self {
        let options = Self {
            fresh_system_identifier: false,
            archive: None,
            tls: false,
            settings: ServerSettings::default(),
        };
        options.fsync(true).max_connections(100)
    }
}

impl PostgresOptions {
    /// Whether commits wait for the disk. Off saves time where the server only produces load; our own backend refuses it (PG-1).
    #[must_use]
    pub fn fsync(self, on: bool) -> Self {
        let value = if on { "on" } else { "off" };
        self.setting("fsync", value).setting("full_page_writes", value)
    }

    /// The number of connections that the server takes, three of them for superusers only.
    #[must_use]
    pub fn max_connections(self, connections: u32) -> Self {
        self.setting("max_connections", connections.to_string())
    }

    /// Any setting of `postgresql.conf`, its value without quotes.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name.into(), value.into());
        self
    }

    /// Runs `initdb` for this server alone, about a second, instead of copying a template: servers that are
    /// copied from one template **share a system identifier**. A lineage (rule R-2) couldn't tell them apart.
    #[must_use]
    pub fn fresh_system_identifier(mut self) -> Self {
        self.fresh_system_identifier = true;
        self
    }

    /// Offers TLS, with a certificate for 127.0.0.1 and localhost that an authority of its own has signed. It still
    /// takes connections without.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Archives the WAL, and restores it from there. Two standbys of one primary that are both promoted get
    /// *different* timelines only if they share an archive.
    #[must_use]
    pub fn archive(mut self, archive: &WalArchive) -> Self {
        self.archive = Some(archive.clone());
        self
    }
}

// === impl StandbyOptions ===

impl StandbyOptions {
    /// A standby that the primary's commits don't wait for: a failover to it may lose acknowledged commits.
    pub fn asynchronous(name: impl Into<String>) -> Self {
        Self { name: name.into(), synchronous: false, primary: None, settings: ServerSettings::default() }
    }

    /// A standby that every commit on the primary waits for, as `synchronous_commit=on` means it.
    pub fn synchronous(name: impl Into<String>) -> Self {
        Self { synchronous: true, ..Self::asynchronous(name) }
    }

    /// Streams from this address in place of the primary's own: a proxy (in TCP mode) in front of it, so
    /// that the replication can be delayed or cut.
    #[must_use]
    pub fn through(mut self, primary: SocketAddr) -> Self {
        self.primary = Some(primary);
        self
    }

    /// Any setting of `postgresql.conf`, in place of the primary's.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name.into(), value.into());
        self
    }
}
