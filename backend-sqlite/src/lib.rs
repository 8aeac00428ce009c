//! SQLite as a lease store: one file, several processes on one host
