//! What every section has whose role serves others: the settings of a listener's TLS, and of its callers.

use std::marker::PhantomData;
use std::path::PathBuf;

use lease_settings::{Block, Section};
use serde::Deserialize;

/// They are part of the section `B`, under these names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "")]
pub struct ListenerSettings<B> {
    /// The server's certificate chain.
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its key.
    pub(crate) tls_key_file: Option<PathBuf>,
    /// The authority that signs clients' certificates.
    pub(crate) tls_client_ca_file: Option<PathBuf>,
    /// The callers, and what each may do.
    pub(crate) access_file: Option<PathBuf>,
    /// Whether it may listen beyond loopback without any authentication.
    pub(crate) listen_without_authentication: bool,
    #[serde(skip)]
    section: PhantomData<B>,
}

impl<B: Block> Block for ListenerSettings<B> {
    const SECTION: Section = B::SECTION;
}
