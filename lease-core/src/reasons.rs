//! Why work is told to stop, and why terms end.

use std::fmt;
use std::time::Duration;

use crate::record::RequestId;

/// Why the work is asked to stop while its term still lasts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// The program shuts down.
    Shutdown,
    /// Somebody asked for the lease (H-2).
    StepDown {
        /// Names the request.
        id: RequestId,
        /// The name of whoever asked.
        by: String,
    },
    /// The deadline is near and no renewal has been acknowledged.
    Expiring,
    /// The work has reported no progress for this long. The lease is not renewed any more (H-4).
    Silent(Duration),
}

impl StopReason {
    /// Was the lease asked for by somebody else?
    pub fn is_step_down(&self) -> bool {
        matches!(self, Self::StepDown { .. })
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown => f.write_str("the program shuts down"),
            Self::StepDown { id, by } => write!(f, "{by} asked for the lease (request {id})"),
            Self::Expiring => f.write_str("the deadline is near and no renewal was acknowledged"),
            Self::Silent(max_silence) => write!(f, "the work has reported no progress for {max_silence:?}"),
        }
    }
}

/// Why a term is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The deadline passed without an acknowledged renewal.
    Expired,
    /// The work reported no progress, so the term was not renewed, and its deadline passed (H-4).
    Silent,
    /// A linearizable read showed another grant or freedom: taken over.
    Superseded,
    /// An operator revoked the term, or raised the fence above it (H-3, F-4).
    Revoked,
    /// The register is gone (T-5).
    RegisterGone,
    /// A resource has admitted a later term (F-4).
    FenceRefused,
    /// The work returned; the lease is being released.
    Returned,
    /// The elector was abandoned with its work still running (H-1).
    Abandoned,
    /// What was opened as the store is gone for good.
    StoreGone,
}

impl Loss {
    /// Is it an alarm rather than a part of normal life (F-4)?
    pub fn is_alarm(self) -> bool {
        matches!(self, Self::FenceRefused | Self::RegisterGone | Self::StoreGone)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal was acknowledged before the deadline",
            Self::Silent => "the work reported no progress, so the lease was not renewed",
            Self::Superseded => "another grant, or freedom, was seen: taken over",
            Self::Revoked => "an operator revoked it",
            Self::RegisterGone => "the register is gone from the store",
            Self::FenceRefused => "a resource has admitted a later term",
            Self::Returned => "the work returned",
            Self::Abandoned => "the work did not stop in time; nothing is released",
            Self::StoreGone => "the store that was opened is gone",
        })
    }
}
