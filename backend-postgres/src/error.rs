//! Errors of failed calls: certainly not applied, or unknown.

use std::io::ErrorKind;

use lease_core::BackendError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The [`source`](std::error::Error::source) of the refusal of a database whose lease tables are missing, or older than
/// this program: to be made by [`migrate`](crate::migrate).
#[derive(Debug, thiserror::Error)]
#[error("the lease tables are missing or too old: run migrate as a role that may create tables")]
pub struct NotMigrated {
    source: Option<Worded>,
}

/// sqlx's error as [`words`] tell it, for chains of causes that are shown.
#[derive(Debug, thiserror::Error)]
#[error("{}", words(.0))]
pub struct Worded(pub sqlx::Error);

/// A database's error for people: the server's message, detail and hint, and its SQLSTATE. sqlx's own text has a line number
/// of PostgreSQL's source instead, and its chain of causes says all of it twice.
///
/// No detail of data that a table refuses: it quotes them.
pub fn words(error: &sqlx::Error) -> String {
    let Some(told) = database(error) else { return error.to_string() };
    let quotes_data = ["22", "23"].iter().any(|class| told.code().starts_with(class));
    let detail = told.detail().filter(|_| !quotes_data).map(|detail| format!(": {detail}"));
    let hint = told.hint().map(|hint| format!("; hint: {hint}"));
    let (detail, hint) = (detail.unwrap_or_default(), hint.unwrap_or_default());
    format!("{}{detail}{hint} (SQLSTATE {})", told.message(), told.code())
}

impl NotMigrated {
    pub(crate) fn refusal(context: impl Into<String>, source: Option<sqlx::Error>) -> BackendError {
        BackendError::refused(context).with_source(Self { source: source.map(Worded) })
    }
}

/// The fence's own SQLSTATE; see `migrations/0002_fence.sql`.
pub(crate) const STALE: &str = "LH001";
/// The same, for an epoch above the ceiling; see `migrations/0003_fence_ceiling.sql`.
pub(crate) const ABOVE_CEILING: &str = "LH004";

/// Of a call that changes nothing, or that failed before its statement was sent.
pub(crate) fn not_applied(context: impl Into<String>, error: sqlx::Error) -> BackendError {
    with_advice(BackendError::not_applied(context), error)
}

/// Of a write whose statement was sent.
pub(crate) fn of_write(context: impl Into<String>, error: sqlx::Error) -> BackendError {
    let failed = match &error {
        sqlx::Error::Encode(_) => BackendError::not_applied(context),
        _ if database(&error).is_some_and(is_rolled_back) => BackendError::not_applied(context),
        _ => BackendError::unknown(context),
    };
    with_advice(failed, error)
}

/// Does a pooler refuse `options` at start-up?
pub(crate) fn refuses_startup_options(error: &sqlx::Error) -> bool {
    database(error).is_some_and(|e| e.code() == "08P01" && e.message().contains("startup parameter"))
}

pub(crate) fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref())
}

/// An ERROR ends an autocommit statement's transaction before its commit, so nothing of it remains. Not so a FATAL
/// or PANIC one, which may come while a commit already done waits for its standby (57P01), and what poolers say.
fn is_rolled_back(error: &PgDatabaseError) -> bool {
    let code = error.code();
    let told_by_others = ["08", "57", "58", "XX"].iter().any(|class| code.starts_with(class));
    error.severity() == PgSeverity::Error && !told_by_others && code != "40003"
}

fn with_advice(mut failed: BackendError, error: sqlx::Error) -> BackendError {
    if database(&error).is_some_and(|error| ["3F000", "42P01", "42703", "42883"].contains(&error.code())) {
        return NotMigrated::refusal(failed.context, Some(error));
    }
    if let Some(advice) = advice(&error) {
        failed.refused = advice.refused;
        failed.context = format!("{}: {}", failed.context, advice.text);
    }
    failed.with_source(Worded(error))
}

struct Advice {
    /// Trying again can't help.
    refused: bool,
    text: &'static str,
}

/// Advice on the errors that a setting causes.
fn advice(error: &sqlx::Error) -> Option<Advice> {
    let refused = |text| Some(Advice { refused: true, text });
    let passing = |text| Some(Advice { refused: false, text });
    let error = match error {
        // rustls reports a certificate that it doesn't trust as invalid data.
        sqlx::Error::Io(cause) if cause.kind() == ErrorKind::InvalidData => return refused(TLS),
        sqlx::Error::Tls(_) => return refused(TLS),
        sqlx::Error::Encode(_) => return refused("a value does not fit the store"),
        error => database(error)?,
    };
    match error.code() {
        "28000" | "28P01" => refused("the server refuses this user; check user, password and pg_hba.conf"),
        "3D000" => refused("there is no such database; create it, or correct the url"),
        "42501" => refused(
            "the role lacks a privilege; grant it with roles.sql, or for tables to be made use a role that may",
        ),
        "26000" | "42P05" => refused(LOST_STATEMENTS),
        "25006" => passing(READ_ONLY),
        "53100" => passing("the disk of the database is full: make room there"),
        "55000" if error.message().contains("recovery") => {
            passing("the server is a standby in recovery, which can't hold leases; use the primary")
        }
        "40001" | "40P01" => passing("another transaction got in the way"),
        "55P03" => passing("another session has locked the row for longer than lock_timeout"),
        _ if error.code().starts_with("22") || error.code().starts_with("23") => {
            refused("the store does not accept a value")
        }
        _ => None,
    }
}

/// Of a server that takes no writes (25006).
pub(crate) const READ_ONLY: &str =
    "the server is read-only: a standby, a demoted primary, or a full disk; use the primary";

const TLS: &str = "no TLS connection; check sslmode and sslrootcert in the url, and the server's certificate";

const LOST_STATEMENTS: &str = "the pooler in between loses prepared statements; use PgBouncer 1.21 or \
    later with max_prepared_statements above 0, session pooling, or a direct connection";

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::Certainty;

    #[test]
    fn a_broken_connection_leaves_a_write_unknown_and_a_read_not_applied() {
        let broken = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(of_write("renew", broken()).certainty, Certainty::Unknown);
        assert_eq!(not_applied("observe", broken()).certainty, Certainty::NotApplied);
    }

    #[test]
    fn a_value_that_cannot_be_encoded_was_certainly_not_written() {
        let error = of_write("renew", sqlx::Error::Encode("too large".into()));
        assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, true));
    }
}
