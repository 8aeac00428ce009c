//! PostgreSQL as a lease store
