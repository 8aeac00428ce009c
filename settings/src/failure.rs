//! The failure of a command: its message and its exit code.

use std::process::ExitCode;

use crate::{BadSetting, BadSettings};

/// A command's failure: one message and one exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Settings or arguments can't be used; nothing was started. Exit code 2.
    #[error(transparent)]
    Setting(#[from] BadSettings),
    /// It was tried and did not succeed. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// It failed with an exit code of its own; the message may be empty.
    #[error("{1}")]
    Code(u8, String),
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Setting(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
            Self::Code(code, _) => ExitCode::from(*code),
        }
    }
}

impl From<BadSetting> for Failure {
    fn from(bad: BadSetting) -> Self {
        Self::Setting(bad.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}
