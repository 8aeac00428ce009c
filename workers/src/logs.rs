//! Logs go to standard error: human by default, JSON for collectors.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::settings::Log;

/// Is it a filter that tracing understands?
pub(crate) fn is_filter(text: &str) -> bool {
    !text.is_empty() && EnvFilter::try_new(text).is_ok()
}

/// Sets up logging for the process. `usual` is the filter if nobody sets one.
pub(crate) fn start(log: &Log, usual: &str) {
    let filter = log.filter.clone().or_else(|| std::env::var("RUST_LOG").ok().filter(|text| is_filter(text)));
    let filter = EnvFilter::new(filter.as_deref().unwrap_or(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // A program that embeds us may log already; its choice stands.
    let _ = if log.format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(stderr().is_terminal()).try_init()
    };
}
