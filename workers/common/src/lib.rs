//! Shared parts of the roles of `leasehold worker`.

pub mod bad_rows;
pub mod campaign;
pub mod connections;
pub mod database;
pub mod eligible;
pub mod health;
pub mod lead;
pub mod leader_metrics;
pub mod mandate;
pub mod marks;
pub mod request_body;
pub mod request_id;
mod role;
pub mod shutdown;
pub mod stderr;
pub mod stdout;
pub mod under_way;

pub use role::{ChosenRole, NamedRole, Role, Roles};

/// An HTTP client that gives up after `limit`.
///
/// # Errors
/// The system's certificates can't be read.
pub fn http_client(limit: std::time::Duration) -> reqwest::Result<reqwest::Client> {
    // Two libraries may bring providers of their own; we choose one for the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(limit).redirect(reqwest::redirect::Policy::none()).build()
}
