//! Errors. Contention is never one: it is a [`Conflict`](crate::PutOutcome::Conflict).

use std::error::Error as StdError;
use std::fmt;

/// Is it known that the store did nothing?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// Certainly not applied, and never will be. Every failed read is of this kind.
    NotApplied,
    /// It may have been applied, or may still be.
    Unknown,
}

/// A store could not answer.
///
/// `{}` prints the [`context`](Self::context) alone, for programs that print the chain of
/// [`source`](std::error::Error::source)s themselves; `{:#}` prints the chain too, on one line.
#[derive(Debug)]
pub struct BackendError {
    /// Whether a write may have happened all the same.
    pub certainty: Certainty,
    /// Trying again can't help until somebody changes a setting: a wrong password, `synchronous_commit=off`.
    /// Before the first connection this ends [`Elector::run_until`](crate::Elector::run_until); later it is
    /// treated like any other failure.
    pub refused: bool,
    /// What was opened is gone for good, whatever is done to it: only a new process finds what has taken its place. Ends
    /// [`Elector::run_until`](crate::Elector::run_until), and the present term with it.
    pub gone: bool,
    /// No call on this backend will succeed any more, and a new connection may: the elector drops this one and calls the
    /// [`Connector`](crate::Connector) anew.
    pub disconnected: bool,
    /// The attempt, and the remedy if there is one: lower case, no full stop, no secrets.
    pub context: String,
    /// The client library's own error.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl BackendError {
    /// Certainly not applied: may be tried again.
    pub fn not_applied(context: impl Into<String>) -> Self {
        let context = context.into();
        let (refused, gone, disconnected) = (false, false, false);
        Self { certainty: Certainty::NotApplied, refused, gone, disconnected, context, source: None }
    }

    /// The outcome is unknown: only an acknowledged write settles it (U-1, U-2).
    pub fn unknown(context: impl Into<String>) -> Self {
        Self { certainty: Certainty::Unknown, ..Self::not_applied(context) }
    }

    /// Certainly not applied, and trying again can't help until a setting is changed.
    pub fn refused(context: impl Into<String>) -> Self {
        Self { refused: true, ..Self::not_applied(context) }
    }

    /// Certainly not applied, and only a new process can try again.
    pub fn gone(context: impl Into<String>) -> Self {
        Self { gone: true, ..Self::refused(context) }
    }

    /// And no call on this backend will succeed any more: connect anew. Of a write that was under way when its connection
    /// broke, `BackendError::unknown(…).disconnected()`.
    pub fn disconnected(mut self) -> Self {
        self.disconnected = true;
        self
    }

    /// Adds the client library's error.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut cause = self.source().filter(|_| f.alternate());
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// A lease name that some store could not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lease name {name:?} is not valid: use 1 to 253 characters of a-z, 0-9, '-' and '.', each dot-separated part \
     beginning and ending with a letter or digit, for example outbox-forwarder"
)]
pub struct InvalidName {
    /// The name as given.
    pub name: String,
}

/// Settings that can't keep the protocol's promises; the message has the arithmetic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} = {value} is not allowed: {why}")]
pub struct InvalidSettings {
    /// The setting as the builder names it, for example `renew_every`.
    pub setting: &'static str,
    /// Its value, with its unit.
    pub value: String,
    /// The allowed values, with the arithmetic, and the remedy.
    pub why: String,
}
