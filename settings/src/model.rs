//! The settings: each is described once, and the file, the environment, the flags, the checks, `--help-all`
//! and `leasehold config` all come from that description.

use std::net::ToSocketAddrs;

use figment::value::Value;
use serde::de::DeserializeOwned;

use super::secret::{NOT_SHOWN, may_hold_a_secret, redacted};

/// One setting.
///
/// ```
/// use lease_settings::{ValueKind, Setting};
///
/// const PAGE: Setting = Setting::new(
///     "pageSize",
///     "LEASEHOLD_OUTBOX_PAGE_SIZE",
///     ValueKind::Integer { min: 1, max: 10_000 },
///     "how many rows one batch takes",
/// )
/// .default("500")
/// .flag("page-size");
/// # let _ = PAGE;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key within its section, as in the file: `ttlMs`.
    pub key: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The long flag without its dashes. Flags that take a time are written with a unit: `15s`.
    pub flag: Option<&'static str>,
    /// The allowed values.
    pub kind: ValueKind,
    /// The value if nobody sets it, as text.
    pub default: Option<&'static str>,
    /// The effect of leaving it unset: shown by `leasehold config` and `--help-all`.
    pub unset: &'static str,
    /// Never shown: passwords, and URLs that may hold one.
    pub secret: bool,
    /// The setting that names a file with this one's value (for Kubernetes Secrets).
    pub from_file: Option<FromFile>,
    /// One line for people: lower case, no full stop.
    pub help: &'static str,
}

/// The setting beside a setting that names a file with its value.
#[derive(Clone, Copy, Debug)]
pub struct FromFile {
    /// The key: `urlFile`.
    pub key: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The long flag without its dashes.
    pub flag: &'static str,
}

impl Setting {
    /// A setting without a default, a flag or a secret.
    pub const fn new(key: &'static str, env: &'static str, kind: ValueKind, help: &'static str) -> Self {
        let (flag, default, unset, secret, from_file) = (None, None, "", false, None);
        Self { key, env, flag, kind, default, unset, secret, from_file, help }
    }

    /// Its value if nobody sets it, as text.
    pub const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    /// The effect of leaving it unset, for people: `ttlMs/3`.
    pub const fn unset(mut self, text: &'static str) -> Self {
        self.unset = text;
        self
    }

    /// Its long flag, without the dashes.
    pub const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Its value for people: without what may be a password.
    pub(super) fn shown(&self, text: &str) -> String {
        match self.kind {
            _ if text.is_empty() => String::new(),
            _ if !self.secret && !may_hold_a_secret(text) => text.to_owned(),
            ValueKind::Parsed { .. } => redacted(text),
            _ => NOT_SHOWN.to_owned(),
        }
    }

    /// It must never be shown.
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Its value may also stand in a file that another setting names.
    pub const fn or_file(mut self, key: &'static str, env: &'static str, flag: &'static str) -> Self {
        self.from_file = Some(FromFile { key, env, flag });
        self
    }
}

/// A group of settings: a table in the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The table's dotted name: `leaderElection.postgres`.
    pub name: &'static str,
    /// Its subject, for people.
    pub about: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// A section with a type, which serde fills. Every field that has no default is an `Option`.
pub trait Block: DeserializeOwned {
    /// Its settings; each field of the type is one of their keys.
    const SECTION: Section;
}

/// The type of a setting's value.
#[derive(Clone, Copy, Debug)]
pub enum ValueKind {
    /// Any text without control characters; empty text means none.
    Text,
    /// A text that a function accepts.
    Checked {
        /// Is it acceptable?
        check: fn(&str) -> bool,
        /// The acceptable texts: "use …".
        allowed: &'static str,
    },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A time: milliseconds in the file and the environment, a number with its unit as a flag.
    Millis {
        /// The shortest.
        min: i64,
        /// The longest.
        max: i64,
    },
    /// A path.
    Path,
    /// A text that a function reads: a URL of some kind.
    Parsed {
        /// The kind's name, for machines.
        name: &'static str,
        /// If the text can't be read: the reason and the fix, without what may be a secret.
        check: fn(&str) -> Result<(), String>,
        /// The acceptable texts: "use …".
        allowed: &'static str,
    },
    /// `host:port` to listen on or to connect to.
    Address,
}

impl ValueKind {
    /// The value of a text from the environment. A text that has none stays a text, so that
    /// [`check`](Self::check) refuses it.
    pub(super) fn read(self, text: &str) -> Value {
        match self {
            Self::Integer { .. } | Self::Millis { .. } => text.parse::<i64>().ok().map(Value::from),
            Self::Bool => text.parse::<bool>().ok().map(Value::from),
            _ => None,
        }
        .unwrap_or_else(|| Value::from(text))
    }

    /// The value of a flag's text: as [`read`](Self::read), but times have a unit. A time out of range stays a
    /// text, so that it's shown as it was written.
    pub(super) fn read_flag(self, text: &str) -> Value {
        match self {
            Self::Millis { min, max } => parse_millis(text)
                .filter(|millis| (min..=max).contains(millis))
                .map_or_else(|| Value::from(text), Value::from),
            _ => self.read(text),
        }
    }

    /// Is the value allowed? If not: what is.
    pub(super) fn check(self, value: &Value, flag: bool) -> Result<(), String> {
        let text = value.as_str();
        let number = value.to_i128();
        let within =
            |min: i64, max: i64| number.is_some_and(|n| (i128::from(min)..=i128::from(max)).contains(&n));
        let fine = match self {
            Self::Text => text.is_some_and(|t| !t.chars().any(char::is_control)),
            Self::Checked { check, .. } => text.is_some_and(check),
            Self::OneOf(words) => text.is_some_and(|t| words.contains(&t)),
            Self::Bool => value.to_bool().is_some(),
            Self::Integer { min, max } | Self::Millis { min, max } => within(min, max),
            Self::Path => text.is_some_and(|t| !t.is_empty() && !t.chars().any(char::is_control)),
            Self::Parsed { check, .. } if text.is_some() => return text.map_or(Ok(()), check),
            Self::Parsed { .. } => false,
            Self::Address => text.is_some_and(is_address),
        };
        if fine { Ok(()) } else { Err(self.allowed(flag)) }
    }

    /// Its name, for machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Checked { .. } => "checked",
            Self::OneOf(_) => "one_of",
            Self::Bool => "bool",
            Self::Integer { .. } => "integer",
            Self::Millis { .. } => "millis",
            Self::Path => "path",
            Self::Parsed { name, .. } => name,
            Self::Address => "address",
        }
    }

    pub(super) fn is_text(self) -> bool {
        !matches!(self, Self::Bool | Self::Integer { .. } | Self::Millis { .. })
    }

    /// The allowed values, as the end of a sentence: "use …".
    pub fn allowed(self, flag: bool) -> String {
        match self {
            Self::Text => "use text without control characters".to_owned(),
            Self::Checked { allowed, .. } | Self::Parsed { allowed, .. } => allowed.to_owned(),
            Self::OneOf(words) => format!("use one of {}", words.join(", ")),
            Self::Bool => "use true or false".to_owned(),
            Self::Integer { min, max } => format!("use a whole number from {min} to {max}"),
            Self::Millis { min, max } if flag => {
                format!("use a time with its unit, for example 500ms or 15s, from {min}ms to {max}ms")
            }
            Self::Millis { min, max } => format!("use a whole number of milliseconds from {min} to {max}"),
            Self::Path => "use a path that isn't empty".to_owned(),
            Self::Address => "use host:port, for example 127.0.0.1:9090".to_owned(),
        }
    }
}

/// `host:port`, without asking a name server.
fn is_address(text: &str) -> bool {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    matches!(port, Some(Ok(_)))
        && (text.rsplit_once(':').is_some_and(|(host, _)| host.chars().all(plain))
            || text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.to_socket_addrs().is_ok()))
}

/// `500ms`, `15s`, `2m`, `1h`.
pub fn parse_millis(text: &str) -> Option<i64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit_and_never_overflow() {
        assert_eq!(parse_millis("1500ms"), Some(1500));
        assert_eq!(parse_millis("15s"), Some(15_000));
        assert_eq!(parse_millis("2m"), Some(120_000));
        for nonsense in ["", "15", "s", "-1s", "1.5s", "15 s", "15sec", "99999999999999999h"] {
            assert_eq!(parse_millis(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:0", "[::1]:9090", "localhost:80", "ingest.svc.cluster.local:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in
            ["", "localhost", ":80", "localhost:", "localhost:65536", "a b:80", "localhost:-1", "::1:80x"]
        {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
