//! The audit log of an API server: each request, its user and its answer.

use std::{fs, path::PathBuf};

use anyhow::Context;
use serde_json::Value;

/// An API server's audit log; made by [`ControlPlane::audit`](super::ControlPlane::audit).
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// The user: `system:serviceaccount:NAMESPACE:NAME`, or the claim of an unknown one.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, …
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// `leases`, or nothing.
    pub resource: String,
    /// The object's name, where the request names one.
    pub name: String,
    /// The HTTP status of the answer; 0 where there was none.
    pub code: u64,
}

// === impl AuditLog ===

impl AuditLog {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The requests that were answered up to now, in order; a watch counts when it begins and again when it ends.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn events(&self) -> anyhow::Result<Vec<AuditEvent>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        // The last line may be under way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(AuditEvent::parse).collect()
    }
}

// === impl AuditEvent ===

impl AuditEvent {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let event: Value = serde_json::from_str(line).context("a line of the audit log")?;
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            user: text("/user/username"),
            verb: text("/verb"),
            uri: text("/requestURI"),
            resource: text("/objectRef/resource"),
            name: text("/objectRef/name"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0),
        })
    }
}
