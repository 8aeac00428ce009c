//! A listener's TLS: checked before anything starts, and read again when its files change.

use std::sync::Arc;

use lease_settings::{BadSetting, Block, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::listener::ListenerSettings;
use crate::reloaded::{Reloaded, Unusable};

/// The settings of a listener's TLS, the same in every section that has them.
const KEYS: [&str; 3] = ["tlsCertFile", "tlsKeyFile", "tlsClientCaFile"];

/// What a server speaks, and with whom.
#[derive(Clone, Copy, Debug)]
pub struct Spoken {
    /// The protocol's name in TLS.
    pub protocol: &'static [u8],
    /// Whether a client without a certificate is served, where there is an authority: its requests are judged one by one.
    pub clients_may_have_none: bool,
}

/// A server's TLS.
#[derive(Clone)]
pub struct ServerTls(Reloaded<Arc<ServerConfig>>);

impl ServerTls {
    /// As the settings of section `B` ask for it, or `None` for plain text.
    ///
    /// # Errors
    /// A file that can't be used, or a half of what is needed.
    pub fn of<B: Block>(
        all: &Settings,
        listener: &ListenerSettings<B>,
        spoken: Spoken,
    ) -> Result<Option<Self>, BadSetting> {
        let client_ca = listener.tls_client_ca_file.clone();
        let (cert, key) = match (listener.tls_cert_file.clone(), listener.tls_key_file.clone()) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if client_ca.is_none() => return Ok(None),
            (None, _) => {
                let why = "TLS needs the server's certificate: set it, or unset the other TLS settings";
                return Err(all.refuse::<B>(KEYS[0], why));
            }
            (_, None) => {
                let why = "TLS needs the certificate's key: set it, or unset the other TLS settings";
                return Err(all.refuse::<B>(KEYS[1], why));
            }
        };
        let files = [Some(cert), Some(key), client_ca].into_iter().flatten().collect();
        let loaded = Reloaded::start("the server's TLS", files, move |pem| config(pem, spoken));
        loaded.map(Self).map(Some).map_err(|unusable| all.refuse::<B>(KEYS[unusable.file], unusable.why))
    }

    /// For the next handshake.
    pub(crate) fn now(&self) -> Arc<ServerConfig> {
        (*self.0.now()).clone()
    }
}

/// From certificate, key and, if there is one, the clients' authority.
fn config(pem: &[Vec<u8>], spoken: Spoken) -> Result<Arc<ServerConfig>, Unusable> {
    choose_provider();
    let [cert, key, authority @ ..] = pem else {
        return Err(Unusable::new(0, "TLS needs a certificate and its key"));
    };
    let chain = certificates(cert).map_err(|why| Unusable::new(0, why))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| Unusable::new(1, format!("it holds no private key: {error}; name a PEM file")))?;
    let builder = match authority {
        [] => ServerConfig::builder().with_no_client_auth(),
        [authority, ..] => {
            let refuse = |why: String| Unusable::new(2, why);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(authority).map_err(refuse)? {
                roots.add(certificate).map_err(|error| refuse(format!("it is no authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder(roots.into());
            let verifier =
                if spoken.clients_may_have_none { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| refuse(format!("it can't be used: {error}")))?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        let why = format!("it can't be used with tlsCertFile: {error}; name the key of that certificate");
        Unusable::new(1, why)
    })?;
    config.alpn_protocols = vec![spoken.protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Two libraries may bring providers of their own; we choose one for the process.
pub fn choose_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates in a PEM file; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("it holds no certificate: name a PEM file".to_owned()),
        Err(error) => Err(format!("it is no PEM file: {error}; name one")),
    }
}

/// The names in the certificate that a connection's client has shown: DNS names and URIs of its subjectAltName. It was
/// checked by then.
#[derive(Clone, Debug)]
pub struct PeerNames(Arc<[String]>);

impl PeerNames {
    /// `None` if the client has shown none.
    pub(crate) fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(chain?.first()?).ok()?;
        let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
        Some(Self(names.map(str::to_owned).collect()))
    }

    /// Is this one of them?
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}
