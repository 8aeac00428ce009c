//! Shared parts of the roles of `leasehold worker`.

pub mod access;
pub mod access_table;
pub mod bad_rows;
pub mod campaign;
pub mod connections;
pub mod credentials;
pub mod database;
pub mod eligible;
pub mod health;
pub mod home;
pub mod lead;
pub mod leader_metrics;
pub mod lease_gauges;
pub mod listener;
pub mod mandate;
pub mod marks;
pub mod operate;
pub mod own_database;
pub mod quoted;
pub mod refusals;
mod registers;
pub mod reloaded;
pub mod request_body;
pub mod request_id;
mod role;
pub mod server;
pub mod shutdown;
pub mod stderr;
pub mod stdout;
pub mod store_metrics;
pub mod tls;
pub mod under_way;

pub use role::{ChosenRole, NamedRole, Role, Roles};

/// An HTTP client that gives up after `limit`.
///
/// # Errors
/// The system's certificates can't be read.
pub fn http_client(limit: std::time::Duration) -> reqwest::Result<reqwest::Client> {
    http_client_builder(limit).build()
}

fn http_client_builder(limit: std::time::Duration) -> reqwest::ClientBuilder {
    tls::choose_provider();
    reqwest::Client::builder().timeout(limit).redirect(reqwest::redirect::Policy::none())
}
