//! The file that names a listener's callers: TOML, a table for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use crate::reloaded::Unusable;

/// Something that a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Send events to canonical-ingest.
    Forward,
    /// Hold a fencing scope, and decide in its name.
    Sidecar,
    /// End the terms of others: force and revoke.
    Operate,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Sidecar => "act as a sidecar",
            Self::Operate => "operate",
        })
    }
}

/// The callers of one listener.
#[derive(Debug)]
pub struct AccessTable {
    pub(crate) principals: Vec<Arc<Principal>>,
}

/// One caller, by its name in the file.
pub struct Principal {
    pub(crate) name: String,
    pub(crate) token_hashes: Vec<[u8; 32]>,
    pub(crate) certificate_names: Vec<String>,
    may: Vec<Right>,
    tenants: Vec<String>,
    scopes: Vec<String>,
    leases: Vec<String>,
}

/// Without the hashes.
impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    #[serde(default)]
    token_sha256: Vec<String>,
    #[serde(default)]
    certificate_names: Vec<String>,
    may: Vec<Right>,
    tenants: Vec<String>,
    #[serde(default = "all")]
    scopes: Vec<String>,
    #[serde(default = "all")]
    leases: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

impl AccessTable {
    /// Reads the file's text.
    ///
    /// # Errors
    /// It can't be used, and why. Its content is not quoted: a token may stand where its hash belongs.
    pub fn parse(text: &[u8]) -> Result<Self, Unusable> {
        let refuse = |why: String| Unusable::new(0, why);
        let text = str::from_utf8(text).map_err(|_| refuse("it is no text: name a TOML file".to_owned()))?;
        let rows: BTreeMap<String, Row> =
            Figment::from(Toml::string(text)).extract().map_err(|error| refuse(bad_toml(&error)))?;
        if rows.is_empty() {
            return Err(refuse("it names no caller: write a table for each, such as [forwarder]".to_owned()));
        }
        let mut known = BTreeSet::new();
        let mut principals = Vec::new();
        for (name, row) in rows {
            let about = |why: &str| refuse(format!("[{name}] {why}"));
            let hashes: Option<Vec<_>> = row.token_sha256.iter().map(|text| hash(text)).collect();
            let Some(token_hashes) = hashes else {
                return Err(about(
                    "tokenSha256: use the 64 hexadecimal digits of `sha256sum`, not the token",
                ));
            };
            if token_hashes.is_empty() && row.certificate_names.is_empty() {
                return Err(about("needs tokenSha256 or certificateNames: nobody could be this caller"));
            }
            if row.may.is_empty() || row.tenants.is_empty() {
                return Err(about("may and tenants must not be empty: this caller could do nothing"));
            }
            let lists = [&row.tenants, &row.scopes, &row.leases];
            if lists.into_iter().flatten().any(|pattern| !is_pattern(pattern)) {
                return Err(about("tenants, scopes, leases: use a name, a prefix that ends with /*, or *"));
            }
            if !token_hashes.iter().all(|hash| known.insert(*hash)) {
                return Err(about("shares a token with another caller: give each its own"));
            }
            let Row { certificate_names, may, tenants, scopes, leases, .. } = row;
            principals.push(Arc::new(Principal {
                name,
                token_hashes,
                certificate_names,
                may,
                tenants,
                scopes,
                leases,
            }));
        }
        Ok(Self { principals })
    }
}

impl Principal {
    pub(crate) fn may(&self, right: Right) -> bool {
        self.may.contains(&right)
    }

    pub(crate) fn in_tenant(&self, tenant: &str) -> bool {
        covers(&self.tenants, tenant)
    }

    pub(crate) fn in_scope(&self, scope: &str) -> bool {
        covers(&self.scopes, scope)
    }

    pub(crate) fn has_lease(&self, lease: &str) -> bool {
        covers(&self.leases, lease)
    }
}

fn covers(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    })
}

fn is_pattern(text: &str) -> bool {
    text == "*"
        || !text.strip_suffix("/*").unwrap_or(text).is_empty() && !text.trim_end_matches("/*").contains('*')
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    let mut hash = [0; 32];
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Where it is wrong, without what stands there.
fn bad_toml(error: &figment::Error) -> String {
    use figment::error::Kind;
    let at = error.path.join(".");
    match &error.kind {
        Kind::MissingField(field) => format!("{at}: {field} is missing"),
        Kind::UnknownField(_, known) => format!("{at}: unknown key; use {}", known.join(", ")),
        Kind::UnknownVariant(_, known) => format!("{at}: use {}", known.join(", ")),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if !at.is_empty() => {
            format!("{at}: use {expected}")
        }
        _ => {
            let first = error.to_string();
            let place = first.lines().next().filter(|line| line.starts_with("TOML parse error at line"));
            format!("{}; write TOML, a table for each caller", place.unwrap_or("it can't be read as callers"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_example_is_a_table() {
        let page = include_str!("../../../docs/access.md");
        let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("one");
        let table = AccessTable::parse(example.as_bytes()).expect("usable");
        let names: Vec<_> = table.principals.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["acme-sidecars", "forwarder", "on-call"]);
        let sidecars = &table.principals[0];
        assert!(sidecars.in_scope("payments/node-1") && sidecars.in_scope("payments"));
        assert!(!sidecars.in_scope("payments-of-others") && !sidecars.in_tenant("acme2"));
    }

    #[test]
    fn a_bad_table_is_refused_without_quoting_it() {
        let secret = "hunter2-hunter2-hunter2-hunter2";
        for (text, said) in [
            (String::new(), "it names no caller"),
            (secret.to_owned(), "line 1"),
            (format!("[a]\ntokenSha256 = ['{secret}"), "line 2"),
            (format!("[a]\ntokenSha256 = ['{secret}']\nmay = ['forward']\ntenants = ['*']"), "`sha256sum`"),
            (format!("[a]\ntokenSha256 = '{secret}'\nmay = ['forward']\ntenants = ['*']"), "a.tokenSha256"),
            (format!("a = '{secret}'"), "a: use "),
            ("[a]\nmay = ['forward']\ntenants = ['*']".to_owned(), "nobody could be this caller"),
            ("[a]\ncertificateNames = ['x']\nmay = ['forward']".to_owned(), "tenants is missing"),
            (
                format!("[a]\ncertificateNames = ['x']\nmay = ['{secret}']\ntenants = ['*']"),
                "use forward, sidecar, operate",
            ),
            (format!("[a]\ntoken = '{secret}'\nmay = ['forward']\ntenants = ['*']"), "tokenSha256"),
            ("[a]\ncertificateNames = ['x']\nmay = []\ntenants = ['*']".to_owned(), "could do nothing"),
            (
                "[a]\ncertificateNames = ['x']\nmay = ['forward']\ntenants = ['a*']".to_owned(),
                "prefix that ends with /*",
            ),
            (
                format!(
                    "[a]\ntokenSha256 = ['{0}']\nmay = ['forward']\ntenants = ['*']\n[b]\ntokenSha256 = ['{0}']\nmay = ['forward']\ntenants = ['*']",
                    "0".repeat(64)
                ),
                "shares a token",
            ),
        ] {
            let refused = AccessTable::parse(text.as_bytes()).expect_err("it can't be used").why;
            assert!(refused.contains(said), "{text}: {refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
