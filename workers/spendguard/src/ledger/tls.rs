//! TLS as the settings ask for it, checked before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use lease_settings::{BadSetting, Settings as All};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::LedgerSettings;

/// A client that takes longer for its handshake is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The server's TLS, or `None` for plain text.
///
/// # Errors
/// A file that can't be used, or a half of what is needed.
pub(super) fn config(role: &LedgerSettings, all: &All) -> Result<Option<ServerTlsConfig>, BadSetting> {
    // Two libraries may bring providers of their own; we choose one for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (cert, key) = match (&role.tls_cert_file, &role.tls_key_file) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) if role.tls_client_ca_file.is_none() => return Ok(None),
        (None, _) => {
            let why = "TLS needs the server's certificate: set it, or unset the other TLS settings";
            return Err(all.refuse::<LedgerSettings>("tlsCertFile", why));
        }
        (_, None) => {
            let why = "TLS needs the certificate's key: set it, or unset the other TLS settings";
            return Err(all.refuse::<LedgerSettings>("tlsKeyFile", why));
        }
    };
    let read = |setting: &str, path: &PathBuf| {
        std::fs::read(path).map_err(|error| {
            all.refuse::<LedgerSettings>(
                setting,
                format!("the file can't be read: {error}; name a readable PEM file"),
            )
        })
    };
    let (cert_pem, key_pem) = (read("tlsCertFile", cert)?, read("tlsKeyFile", key)?);
    let chain = certificates(&cert_pem).map_err(|why| all.refuse::<LedgerSettings>("tlsCertFile", why))?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| {
        all.refuse::<LedgerSettings>(
            "tlsKeyFile",
            format!("it holds no private key: {error}; name a PEM file"),
        )
    })?;
    rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(|error| {
        let why = format!("it can't be used with tlsCertFile: {error}; name the key of that certificate");
        all.refuse::<LedgerSettings>("tlsKeyFile", why)
    })?;
    let tls =
        ServerTlsConfig::new().identity(Identity::from_pem(&cert_pem, &key_pem)).timeout(HANDSHAKE_LIMIT);
    let Some(authority) = &role.tls_client_ca_file else { return Ok(Some(tls)) };
    let pem = read("tlsClientCaFile", authority)?;
    let refuse = |why: String| all.refuse::<LedgerSettings>("tlsClientCaFile", why);
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&pem).map_err(refuse)? {
        roots.add(certificate).map_err(|error| refuse(format!("it is no authority: {error}")))?;
    }
    Ok(Some(tls.client_ca_root(Certificate::from_pem(pem))))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("it holds no certificate: name a PEM file".to_owned()),
        Err(error) => Err(format!("it is no PEM file: {error}; name one")),
    }
}
