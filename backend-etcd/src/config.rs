//! Settings, checked before anything starts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lease_core::InvalidSettings;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use url::Url;

use crate::keys::Keys;

/// The store's address, credentials and limits.
///
/// Files are read anew for each connection, so that certificates and passwords may rotate. Neither `Debug` nor any
/// error shows a password.
#[derive(Clone)]
pub struct EtcdConfig {
    pub(crate) endpoints: Vec<Url>,
    pub(crate) keys: Keys,
    pub(crate) call_timeout: Duration,
    prefix: String,
    user: Option<(String, Password)>,
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

#[derive(Clone)]
enum Password {
    Given(String),
    File(PathBuf),
}

impl EtcdConfig {
    /// The prefix unless one is set.
    pub const PREFIX: &str = "/leasehold";

    /// From the nodes' urls: `http://host:port` or `https://host:port`, all of one scheme, all of **one cluster**.
    /// Reach the nodes directly, or through what passes TCP on; not through anything that could spread the requests
    /// of one connection over two clusters.
    ///
    /// # Errors
    /// When there is none, or one is no such url.
    pub fn new<I>(endpoints: I) -> Result<Self, InvalidSettings>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let endpoints: Vec<Url> =
            endpoints.into_iter().map(|endpoint| parse(endpoint.as_ref())).collect::<Result<_, _>>()?;
        match endpoints.first() {
            None => return Err(invalid("endpoints", "", "name at least one node, as http://host:2379")),
            Some(first) if endpoints.iter().any(|other| other.scheme() != first.scheme()) => {
                let all: Vec<&str> = endpoints.iter().map(Url::as_str).collect();
                return Err(invalid("endpoints", all.join(","), "use https for all of them, or http"));
            }
            Some(_) => {}
        }
        Ok(Self {
            endpoints,
            keys: Keys::new(Self::PREFIX),
            call_timeout: Duration::from_secs(10),
            prefix: Self::PREFIX.to_owned(),
            user: None,
            ca: None,
            certificate: None,
            server_name: None,
        })
    }

    /// The beginning of all keys, followed by a slash; [`PREFIX`](Self::PREFIX) unless set. A user needs the
    /// permission to read and write everything below it.
    ///
    /// # Errors
    /// When it is empty, or longer than 200 bytes.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, InvalidSettings> {
        check_prefix(prefix)?;
        self.prefix = prefix.to_owned();
        self.keys = Keys::new(prefix);
        Ok(self)
    }

    /// Our user name and its password.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), Password::Given(password.to_owned())));
        self
    }

    /// Our user name, and the file that has its password (and may have a line break behind it).
    pub fn user_with_password_file(mut self, name: &str, file: impl AsRef<Path>) -> Self {
        self.user = Some((name.to_owned(), Password::File(file.as_ref().to_owned())));
        self
    }

    /// The certificates that the nodes' must be signed by, in PEM; Mozilla's root certificates unless set. For
    /// `https` only.
    pub fn ca_file(mut self, file: impl AsRef<Path>) -> Self {
        self.ca = Some(file.as_ref().to_owned());
        self
    }

    /// Our own certificate and its key, in PEM, for nodes that ask for one. For `https` only.
    pub fn client_certificate(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.certificate = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// The name that the nodes' certificates must have, if it isn't the urls' host.
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.to_owned());
        self
    }

    /// The time limit of any call, opening a connection included; 10 s unless set. The elector limits its calls
    /// further, by what is left of the lease.
    ///
    /// # Errors
    /// Allowed are 10 ms to 60 s.
    pub fn call_timeout(mut self, limit: Duration) -> Result<Self, InvalidSettings> {
        if limit < Duration::from_millis(10) || limit > Duration::from_secs(60) {
            return Err(invalid("call_timeout", format!("{limit:?}"), "use 10 ms to 60 s"));
        }
        self.call_timeout = limit;
        Ok(self)
    }

    /// The user and its password, as they are now.
    pub(crate) fn credentials(&self) -> Result<Option<(String, String)>, String> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let password = match password {
            Password::Given(password) => password.clone(),
            Password::File(file) => {
                let text =
                    String::from_utf8(read(file)?).map_err(|_| format!("{} isn't text", file.display()))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        Ok(Some((name.clone(), password)))
    }

    /// The endpoint with the certificates as they are now.
    pub(crate) fn endpoint(&self, url: &Url) -> Result<Endpoint, String> {
        let text = |error: tonic::transport::Error| crate::error::causes(&error);
        let endpoint = Endpoint::from_shared(url.to_string()).map_err(text)?;
        if url.scheme() != "https" {
            return Ok(endpoint);
        }
        let mut tls = match &self.ca {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        if let Some((certificate, key)) = &self.certificate {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(text)
    }

    /// The nodes in words, for messages.
    pub(crate) fn servers(&self) -> String {
        self.endpoints.iter().map(address).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.servers())
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("ca", &self.ca)
            .field("certificate", &self.certificate)
            .field("server_name", &self.server_name)
            .field("call_timeout", &self.call_timeout)
            .finish()
    }
}

pub(crate) fn check_prefix(prefix: &str) -> Result<(), InvalidSettings> {
    match prefix.trim_end_matches('/').is_empty() || prefix.len() > 200 {
        true => Err(invalid("prefix", prefix, "use 1 to 200 characters, for example /leasehold")),
        false => Ok(()),
    }
}

/// `host:port`, for messages and for connecting.
pub(crate) fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or(2379))
}

fn parse(endpoint: &str) -> Result<Url, InvalidSettings> {
    let refused = |shown: &str, problem: &str| {
        let why = format!("{problem}; use http://host:2379, or https://host:2379 over a network");
        Err(invalid("endpoints", shown, why))
    };
    // A url that isn't one of ours may hold a password: it isn't shown.
    if endpoint.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return refused("(not shown)", "it holds a space or a line break");
    }
    let Ok(url) = Url::parse(endpoint) else { return refused("(not shown)", "it is not a url") };
    match url.scheme() {
        "http" | "https" => {}
        _ => return refused("(not shown)", "it begins with neither http:// nor https://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused(&address(&url), "it has a user in it; user and password are settings of their own");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || url.port().is_none() {
        return refused(&address(&url), "it needs a host and a port and no more");
    }
    Ok(url)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn invalid(setting: &'static str, value: impl ToString, why: impl Into<String>) -> InvalidSettings {
    InvalidSettings { setting, value: value.to_string(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_endpoints_are_refused_in_words_and_show_no_password() {
        for endpoint in [
            "",
            "localhost:2379",
            "http://u:secret@host:2379",
            "u:secret@host",
            "ftp://host:1",
            "http://host",
            "http://host:1/path",
            "http://host:1/?password=secret",
            "http://ho\nst:1/",
        ] {
            let error = EtcdConfig::new([endpoint]).expect_err(endpoint).to_string();
            assert!(error.contains("http://host:2379") && !error.contains("secret"), "{endpoint}: {error}");
        }
        assert!(EtcdConfig::new(["http://a:1", "https://b:1"]).is_err(), "mixed");
        assert!(EtcdConfig::new::<[&str; 0]>([]).is_err(), "none");
    }

    #[test]
    fn debug_shows_no_password() {
        let config = EtcdConfig::new(["http://host:2379"]).expect("valid").user("me", "secret");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
