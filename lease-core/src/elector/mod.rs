//! The elector: campaigns for a lease, keeps it, and hands it over.
pub mod step;
