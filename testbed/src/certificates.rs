//! Certificates for one server or cluster and its clients.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority and certificates that it has signed, as PEM files.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

// === impl Certificates ===

impl Certificates {
    /// Makes an authority, and a certificate of a server on 127.0.0.1, in a folder that exists.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn make(folder: impl AsRef<Path>) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "testbed's authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certificates = Self { folder: folder.as_ref().to_owned(), authority };
        certificates.write("ca.crt", &certificates.authority.pem())?;
        // etcd is also a client of itself.
        certificates
            .sign("server", &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth])?;
        Ok(certificates)
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Makes a client's certificate and key, and returns their files. `name` is a name of the certificate; an etcd with
    /// authentication takes the client for the user of that name.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn client(&self, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        self.sign(name, &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    pub(crate) fn server(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("server.crt"), self.folder.join("server.key"))
    }

    fn sign(&self, name: &str, usages: &[ExtendedKeyUsagePurpose]) -> anyhow::Result<(PathBuf, PathBuf)> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), name.to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.authority)?;
        Ok((
            self.write(&format!("{name}.crt"), &certificate.pem())?,
            self.write(&format!("{name}.key"), &key.serialize_pem())?,
        ))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
