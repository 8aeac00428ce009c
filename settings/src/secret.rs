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

/// Stands for a value that may be a secret.
pub(super) const NOT_SHOWN: &str = "(not shown: it may hold a secret)";

/// Is it a URL that is more than a host and a path, or a list with a password, in a setting that is no secret's place?
pub(super) fn may_hold_a_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let list = ["password", "passwd", "pwd"]
        .into_iter()
        .any(|word| lower.split(word).skip(1).any(|after| after.trim_start().starts_with(['=', ':'])));
    let url = text.split(',').filter_map(|item| item.split_once("://")).any(|(_, rest)| {
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err());
        (port && !host.ends_with(']')) || path.contains("://") || rest.contains(['@', '?', '#'])
    });
    list || url || (text.contains('@') && text.contains(':')) || (text.contains('?') && text.contains('='))
}

/// A message without those of the texts that it quotes which may hold a secret.
pub fn masked(message: &str, quoted: &[String]) -> String {
    let hidden = quoted.iter().filter(|text| may_hold_a_secret(text));
    hidden.fold(message.to_owned(), |message, text| {
        let escaped = text.escape_debug().to_string();
        message.replace(text, NOT_SHOWN).replace(&escaped, NOT_SHOWN)
    })
}

/// A URL without its password and its query (which may hold one too); nothing at all of what is not certainly a URL, or a
/// file's path.
pub fn redacted(text: &str) -> String {
    without_secrets(text).unwrap_or_else(|| NOT_SHOWN.to_owned())
}

fn without_secrets(text: &str) -> Option<String> {
    let path = text.strip_prefix("sqlite:").unwrap_or(text);
    if path.starts_with(['/', '.']) && !path.contains(|c: char| c.is_control() || "?#@=$\"'".contains(c)) {
        return Some(text.to_owned());
    }
    let (scheme, rest) = text.split_once("://")?;
    if !["http", "https", "postgres", "postgresql"].contains(&scheme) || unclear(rest).is_some() {
        return None;
    }
    let mut url = Url::parse(text).ok()?;
    if url.password().is_some() {
        url.set_password(Some("***")).ok()?;
    }
    if scheme.starts_with("http") && !url.username().is_empty() {
        // A token is often the user.
        url.set_username("***").ok()?;
    }
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    Some(url.into())
}

/// What makes it unclear where a URL's user, password and host end; `rest` is what follows its scheme.
pub(super) fn unclear(rest: &str) -> Option<&'static str> {
    let (authority, others) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if rest.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`\\<>{}".contains(c)) {
        return Some("it holds a space, a line break, a quote, a backslash or a bracket");
    }
    if authority.matches('@').count() > 1 || others.contains(['@', '#']) {
        return Some("an '@', '/', '?' or '#' in a user's name or password must be percent-encoded");
    }
    None
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
            "postgres://app:12/hunter2@db.example/app",
            "postgres://app:12#hunter2@db.example/app",
            "https://hunter2@ingest.example/",
            "https://hunter2:@ingest.example/",
            "mysql://app:hunter2@db.example/app",
            "sqlite:hunter2",
            "/a?key=hunter2",
        ] {
            assert!(!redacted(text).contains("hunter2"), "{text} → {}", redacted(text));
            assert!(!format!("{:?}", Secret::from(text.to_owned())).contains("hunter2"));
        }
        assert_eq!(redacted("postgres://app:hunter2@db.example/app"), "postgres://app:***@db.example/app");
        assert_eq!(redacted("sqlite:/var/lib/outbox.sqlite"), "sqlite:/var/lib/outbox.sqlite");
    }

    #[test]
    fn only_what_may_hold_a_secret_is_held_back() {
        for text in [
            "postgres://app:hunter2@db",
            "postgres://app:hunter2",
            "host=db password = hunter2",
            "http://a:1,http://me:hunter2@b:2",
            "me:hunter2@db/app",
            "https://host/?token=hunter2",
        ] {
            assert!(may_hold_a_secret(text), "{text}");
        }
        for text in [
            "http://a:2379,https://[::1]:2379, http://c",
            "http://canonical-ingest:8080/v1/events",
            "/etc/leasehold/password",
            "op@host",
            "info,lease_core=debug",
            "C:/x",
        ] {
            assert!(!may_hold_a_secret(text), "{text}");
        }
    }
}
