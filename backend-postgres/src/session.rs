//! What our sessions at the server have in common, and the proof that a session is ours.

use lease_core::Tag;
use sqlx::postgres::PgConnectOptions;

/// What every session of ours asks for.
pub(crate) const SETTINGS: [(&str, &str); 6] = [
    // Registers are compared as they are now; a snapshot would hide that, or fail.
    ("default_transaction_isolation", "read committed"),
    // A default of a role or a database is meant for other programs: each call of ours has a limit.
    ("statement_timeout", "0"),
    // The server's half of a connection whose client vanished ends within half a minute; by the system's own times it would
    // keep its session and its locks for hours. (Over a unix socket these do nothing.)
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "20000"),
];

/// What is said of a pooler, before what it would do.
pub(crate) const POOLED: &str = "a pooler stands in between";

/// True where nothing can be written: on a standby in recovery, and on a server or for a role that was made read-only.
pub(crate) const READ_ONLY: &str = "current_setting('transaction_read_only') = 'on'";

/// A parameter that changes nothing in sessions like ours, which search no GIN index.
const PARAMETER: &str = "gin_fuzzy_search_limit";

/// A random value that our start-up packet gives to [`PARAMETER`]. A pooler refuses it, drops it, or sets it by a SET of
/// its own, which the server tells apart (`source`): its sessions were begun by the pooler. So a session that shows it
/// was begun by this very packet, is nobody else's, and has all other settings that the packet asked for. Process ids and
/// prepared statements tell nothing while a pooler lends the same session again.
pub(crate) struct SessionMark(u32);

impl SessionMark {
    pub(crate) fn random() -> Self {
        Self((1 << 30) | (Tag::random().0 as u32 >> 2))
    }

    /// For the connection that is to be marked.
    pub(crate) fn on(&self, options: &PgConnectOptions) -> PgConnectOptions {
        options.clone().options([(PARAMETER, self.0.to_string())])
    }

    /// A condition in SQL: this session has the mark.
    pub(crate) fn is_there(&self) -> String {
        format!(
            "EXISTS (SELECT FROM pg_catalog.pg_settings \
             WHERE name = '{PARAMETER}' AND setting = '{}' AND source = 'client')",
            self.0
        )
    }
}
