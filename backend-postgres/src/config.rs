//! Settings, checked before anything starts.

use std::fmt;
use std::time::Duration;

use lease_core::InvalidSettings;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::url;

/// The store's address, credentials, schema and limits.
///
/// Neither `Debug` nor any error shows a password.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(crate) options: PgConnectOptions,
    pub(crate) listen: Option<PgConnectOptions>,
    pub(crate) schema: Schema,
    pub(crate) pool_size: u32,
    pub(crate) lock_timeout: Duration,
    pub(crate) history_retention: Option<Duration>,
    pub(crate) synchronous_replication: bool,
}

impl PostgresConfig {
    /// From a url, as [`url::parse`] reads it: `postgres://user:password@host:port/database?sslmode=…`.
    ///
    /// # Errors
    /// When a part of it can't be honoured. The message does not repeat its password.
    pub fn new(url: &str) -> Result<Self, InvalidSettings> {
        parse("url", url).map(Self::from_options)
    }

    /// From sqlx's own options.
    pub fn from_options(options: PgConnectOptions) -> Self {
        Self {
            options: common(options),
            listen: None,
            schema: Schema("public".to_owned()),
            pool_size: 4,
            lock_timeout: Duration::from_secs(1),
            history_retention: None,
            synchronous_replication: false,
        }
    }

    /// The schema that holds the tables; `public` unless set.
    ///
    /// # Errors
    /// Allowed are 1 to 40 characters of `a-z`, `0-9` and `_`, not beginning with a digit.
    pub fn schema(mut self, name: &str) -> Result<Self, InvalidSettings> {
        self.schema = Schema::new(name)?;
        Ok(self)
    }

    /// The number of connections that may be open, besides one for each watch; 4 unless set.
    ///
    /// # Errors
    /// Allowed are 2 to 100: a stuck call must never hold up the one that is sent beside it (U-5).
    pub fn pool_size(mut self, connections: u32) -> Result<Self, InvalidSettings> {
        if !(2..=100).contains(&connections) {
            return Err(invalid(
                "pool_size",
                connections,
                "use 2 to 100 connections: each lease needs up to two at a time",
            ));
        }
        self.pool_size = connections;
        Ok(self)
    }

    /// The server to LISTEN at when the main url is that of a pooler, which would lose notifications.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn listen_url(mut self, url: &str) -> Result<Self, InvalidSettings> {
        self.listen = Some(common(parse("listen_url", url)?));
        Ok(self)
    }

    /// The server itself gives up a statement that waits this long behind somebody's lock, so that abandoned ones don't
    /// pile up (U-5); 1 s unless set. Keep it below the shortest ttl.
    ///
    /// # Errors
    /// Allowed are 10 ms to 60 s.
    pub fn lock_timeout(mut self, limit: Duration) -> Result<Self, InvalidSettings> {
        if limit < Duration::from_millis(10) || limit > Duration::from_secs(60) {
            return Err(invalid(
                "lock_timeout",
                format!("{limit:?}"),
                "use 10 ms to 60 s, below the shortest ttl",
            ));
        }
        self.lock_timeout = limit;
        Ok(self)
    }

    /// The age at which history rows are deleted. Kept in the schema, where [`migrate`](crate::migrate) writes it; 90
    /// days at first.
    ///
    /// # Errors
    /// Allowed are one hour to 100 years.
    pub fn history_retention(mut self, period: Duration) -> Result<Self, InvalidSettings> {
        if period < Duration::from_secs(3600) || period > Duration::from_secs(100 * 366 * 86_400) {
            return Err(invalid(
                "history_retention",
                format!("{period:?}"),
                "use one hour to 100 years, for example 90 days",
            ));
        }
        self.history_retention = Some(period);
        Ok(self)
    }

    /// Refuse a server that doesn't wait for a synchronous standby. Without one, a failover can lose the newest
    /// acquisition, and the isolated old primary goes on acknowledging: two leaders, where nothing is fenced.
    pub fn require_synchronous_replication(mut self, required: bool) -> Self {
        self.synchronous_replication = required;
        self
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("server", &url::shown(&self.options))
            .field("listen", &self.listen.as_ref().map(url::shown))
            .field("schema", &self.schema.0)
            .field("pool_size", &self.pool_size)
            .field("lock_timeout", &self.lock_timeout)
            .field("history_retention", &self.history_retention)
            .field("synchronous_replication", &self.synchronous_replication)
            .finish()
    }
}

/// A schema's name, safe to stand in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schema(String);

impl Schema {
    pub(crate) const DEFAULT: &str = "public";

    pub(crate) fn new(name: &str) -> Result<Self, InvalidSettings> {
        let valid = (1..=40).contains(&name.len())
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        match valid {
            true => Ok(Self(name.to_owned())),
            false => Err(invalid(
                "schema",
                name,
                "use 1 to 40 characters of a-z, 0-9 and _, not beginning with a digit",
            )),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The channel of its notifications.
    pub(crate) fn channel(&self) -> String {
        format!("leasehold_{}", self.0)
    }

    /// Puts the quoted name where `{schema}` stands.
    pub(crate) fn render(&self, sql: &str) -> String {
        sql.replace("{schema}", &format!("\"{}\"", self.0))
    }
}

fn common(options: PgConnectOptions) -> PgConnectOptions {
    // Poolers refuse start-up parameters that they don't know, and we need no floats' digits.
    url::named(options.extra_float_digits(None).disable_statement_logging(), "leasehold")
}

fn parse(setting: &'static str, text: &str) -> Result<PgConnectOptions, InvalidSettings> {
    url::parse(text).map_err(|why| invalid(setting, "(not shown: it may hold a password)", why))
}

fn invalid(setting: &'static str, value: impl ToString, why: impl Into<String>) -> InvalidSettings {
    InvalidSettings { setting, value: value.to_string(), why: why.into() }
}
