//! Logs go to standard error: human by default, JSON for collectors. A worker's lines carry its role. Nobody waits until
//! a line is read.

use std::fmt;
use std::io::{IsTerminal, stderr};

use lease_core::printable;
use lease_settings::Log;
use lease_worker_common::stderr::LogLines;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

/// Sets up logging for the process. `usual` is the filter if nobody sets one.
pub(crate) fn start(log: &Log, usual: &str, role: Option<&'static str>) {
    let filter =
        log.filter.clone().or_else(|| std::env::var("RUST_LOG").ok().filter(|text| Log::is_filter(text)));
    let filter = EnvFilter::new(filter.as_deref().unwrap_or(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LogLines);
    let fields = format::debug_fn(|writer, field, value| {
        let text = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", printable(&text)),
            name if name.starts_with("log.") => Ok(()),
            name => write!(writer, "{name}={}", printable(&text)),
        }
    });
    // A program that embeds us may log already; its choice stands.
    let _ = if log.format == "json" {
        let lines = format().json().flatten_event(true);
        builder.json().event_format(WithRole { lines, role, json: true }).try_init()
    } else {
        let ansi = stderr().is_terminal();
        let lines = format().with_ansi(ansi);
        let builder = builder.fmt_fields(fields.delimited(" ")).with_ansi(ansi);
        builder.event_format(WithRole { lines, role, json: false }).try_init()
    };
}

/// Lines as tracing writes them, and the role on each: a span would not reach the lease thread, nor what libraries
/// start by themselves.
struct WithRole<F> {
    lines: F,
    role: Option<&'static str>,
    json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithRole<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.role.is_none() && !self.json {
            return self.lines.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.lines.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match (line.strip_prefix('{').filter(|_| self.json), self.role) {
            // A role's name needs no escaping. The line's values are escaped for JSON, not for a terminal.
            (Some(rest), Some(role)) => writeln!(writer, "{{\"role\":\"{role}\",{}", printable(rest)),
            (None, Some(role)) => writeln!(writer, "{line} role={role}"),
            (_, None) => writeln!(writer, "{}", printable(line)),
        }
    }
}
