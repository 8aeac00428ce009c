//! Values that must never be shown.

use std::fmt;

use serde::{Deserialize, Deserializer};
use url::Url;

/// A text that shows itself to nobody by accident: not in logs, not in errors, not in `leasehold config`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one library that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A URL without its password and query; of any other text nothing.
    pub fn redacted(&self) -> String {
        redacted(&self.0)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// A URL without its password and its query (which may hold one too); nothing at all of anything else.
pub fn redacted(text: &str) -> String {
    if text.starts_with("sqlite:") {
        return text.split(['?', '#']).next().unwrap_or_default().to_owned();
    }
    let Ok(mut url) = Url::parse(text) else { return "(not shown: it may hold a secret)".to_owned() };
    if url.cannot_be_a_base() {
        return "(not shown: it may hold a secret)".to_owned();
    }
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "(not shown: it may hold a secret)".to_owned();
    }
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_survives() {
        for text in [
            "postgres://app:hunter2@db.example/app",
            "postgres://db.example/app?password=hunter2&sslmode=require",
            "postgres://app:p%40hunter2@db.example/app#hunter2",
            "hunter2",
            "app:hunter2@db.example/app",
            "postgres://app:hunter2@db example",
        ] {
            assert!(!redacted(text).contains("hunter2"), "{text} → {}", redacted(text));
            assert!(!format!("{:?}", Secret::from(text.to_owned())).contains("hunter2"));
        }
        assert_eq!(redacted("postgres://app:hunter2@db.example/app"), "postgres://app:***@db.example/app");
    }
}
