//! What a client shows to a server: a bearer token from a file, and a certificate. Read again when the files change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::HeaderValue;
use lease_settings::{BadSetting, Block, Settings};
use reqwest::{Certificate, Client, Identity};

use crate::http_client_builder;
use crate::reloaded::{Reloaded, Unusable};

/// Shorter ones can be guessed: the server keeps a plain hash.
const SHORTEST: usize = 32;
const LONGEST: usize = 4_096;

/// A bearer token, as the value of the `authorization` header. Cheap to clone.
#[derive(Clone)]
pub struct Token(Reloaded<HeaderValue>);

impl Token {
    /// From the file that setting `key` of section `B` names, if it does.
    ///
    /// # Errors
    /// A file that can't be used.
    pub fn of<B: Block>(all: &Settings, key: &str, file: Option<&Path>) -> Result<Option<Self>, BadSetting> {
        let Some(file) = file else { return Ok(None) };
        let token = Reloaded::start("the token", vec![file.to_owned()], |contents| bearer(&contents[0]));
        token.map(Self).map(Some).map_err(|unusable| all.refuse::<B>(key, unusable.why))
    }

    /// The header's value: it shows itself in no log.
    pub fn header(&self) -> HeaderValue {
        (*self.0.now()).clone()
    }
}

/// Without the token.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

fn bearer(content: &[u8]) -> Result<HeaderValue, Unusable> {
    let token = content.trim_ascii();
    let fine = (SHORTEST..=LONGEST).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    let value = fine.then(|| HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()).flatten();
    let mut value = value.ok_or_else(|| {
        let why = "the file must hold one token of 32 to 4096 visible characters: make one by `openssl rand -hex 32`";
        Unusable::new(0, why)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The settings that say what an HTTP client trusts and shows.
pub struct ClientFiles<'a> {
    /// Their keys: the authority's, the certificate's, the key's.
    pub keys: [&'static str; 3],
    /// The authorities of the server; else the system's.
    pub ca: Option<&'a Path>,
    /// The client's certificate.
    pub cert: Option<&'a Path>,
    /// Its key.
    pub key: Option<&'a Path>,
}

/// An HTTP client that gives up after `limit`.
///
/// # Errors
/// A file that can't be used, or a half of what is needed.
pub fn http_client_of<B: Block>(
    all: &Settings,
    files: &ClientFiles<'_>,
    limit: Duration,
) -> Result<Reloaded<Client>, BadSetting> {
    let ClientFiles { keys, ca, cert, key } = files;
    let half = match (cert, key) {
        (Some(_), None) => Some(keys[2]),
        (None, Some(_)) => Some(keys[1]),
        _ => None,
    };
    if let Some(missing) = half {
        return Err(
            all.refuse::<B>(missing, "a client's certificate and its key go together: set both or none")
        );
    }
    let named = [(keys[0], ca), (keys[1], cert), (keys[2], key)];
    let present: Vec<_> = named.into_iter().filter_map(|(key, path)| Some((key, (*path)?))).collect();
    let paths: Vec<PathBuf> = present.iter().map(|(_, path)| path.to_path_buf()).collect();
    let (has_ca, has_identity) = (ca.is_some(), cert.is_some());
    let client = Reloaded::start("the client's certificates", paths, move |pem| {
        let mut builder = http_client_builder(limit);
        let at_identity = usize::from(has_ca);
        if has_ca {
            let refuse = || Unusable::new(0, "it holds no certificate: name a PEM file");
            let roots = Certificate::from_pem_bundle(&pem[0]).ok().filter(|roots| !roots.is_empty());
            builder = builder.tls_certs_only(roots.ok_or_else(refuse)?);
        }
        if has_identity {
            let both = [&pem[at_identity + 1][..], &pem[at_identity][..]].join(&b'\n');
            let identity = Identity::from_pem(&both).map_err(|_| {
                Unusable::new(at_identity, "certificate and key can't be used: name two PEM files")
            })?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(|error| {
            Unusable::new(
                at_identity.min(pem.len().saturating_sub(1)),
                format!(
                    "no client can be made of it: {error}; the system's root certificates may be missing: install \
                     ca-certificates, or name their file in SSL_CERT_FILE"
                ),
            )
        })
    });
    client.map_err(|unusable| {
        let key = present.get(unusable.file).map_or(keys[0], |(key, _)| key);
        all.refuse::<B>(key, unusable.why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_that_cannot_be_guessed() {
        let good = format!("{}\n", "a".repeat(SHORTEST));
        let value = bearer(good.as_bytes()).expect("a token");
        assert_eq!(value.as_bytes(), format!("Bearer {}", "a".repeat(SHORTEST)).as_bytes());
        assert_eq!(format!("{value:?}"), "Sensitive");
        for bad in ["", "short", &"a b".repeat(20), &"é".repeat(40), &"a".repeat(LONGEST + 1), "a\nb"] {
            assert!(bearer(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
