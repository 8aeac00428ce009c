//! Leases as an aligned table for people.

use comfy_table::{ContentArrangement, Table, presets};
use console::Style;
use lease_core::internal::writes;
use lease_core::{LeaseName, Listed, Observation, Record, Revocation, WallTime, printable};

use super::output::{clock, span};
use super::show::Show;
use super::state;

const HEADER: [&str; 7] = ["LEASE", "STATE", "HOLDER", "EPOCH", "AGE", "LAST BEAT", "LEFT"];
const WIDE: [&str; 7] = ["REGION", "WORK", "TTL", "TRANSITIONS", "GRANT", "LINEAGE", "REQUEST"];

/// The header and one line for each lease, none wrapped and none longer than it must be.
pub(super) fn lines(seen: &[Listed], how: &Show) -> Vec<String> {
    let now = WallTime::now();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let header = HEADER.iter().chain(WIDE.iter().filter(|_| how.is_wide()));
    table.set_header(header.copied());
    for (name, seen) in seen {
        let cells = match seen {
            Ok(observation) => cells(name, observation, now, how.is_wide()),
            Err(_) => row_of_none(name, "unreadable", how.is_wide()),
        };
        table.add_row(cells.iter().map(|cell| printable(cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.trim_fmt();
    let lines = std::iter::once(None).chain(seen.iter().map(Some)).zip(lines.lines());
    // Why is longer than any column.
    let lines = lines.map(|(seen, line)| match seen {
        Some((_, Err(error))) => {
            let row = line.trim_end_matches([' ', '-']);
            format!("{row}: {}", printable(&format!("{error:#}")))
        }
        _ => line.to_owned(),
    });
    if !how.in_colour() {
        return lines.collect();
    }
    let styles =
        seen.iter().map(|(_, seen)| style(seen.as_ref().ok().and_then(|seen| seen.record.as_ref()), now));
    let styles = std::iter::once(Style::new().bold()).chain(styles);
    lines.zip(styles).map(|(line, style)| style.force_styling(true).apply_to(line).to_string()).collect()
}

/// What stands out is what somebody may want to look at, which is no verdict.
fn style(record: Option<&Record>, now: WallTime) -> Style {
    let style = Style::new();
    match record.map(|record| (state(record), record)) {
        None => style.red(),
        Some(("held", record)) if record.expires_at.0 < now.0 => style.yellow(),
        Some(("held", _)) => style,
        Some(("free", _)) => style.dim(),
        Some(_) => style.yellow(),
    }
}

const NONE: fn() -> String = || "-".to_owned();

/// A lease of which nothing can be told.
fn row_of_none(name: &LeaseName, state: &str, wide: bool) -> Vec<String> {
    let mut cells = vec![name.to_string(), state.to_owned()];
    cells.resize_with(HEADER.len() + if wide { WIDE.len() } else { 0 }, NONE);
    cells
}

fn cells(name: &LeaseName, seen: &Observation, now: WallTime, wide: bool) -> Vec<String> {
    let Some(record) = &seen.record else { return row_of_none(name, "absent", wide) };
    let mut cells = vec![name.to_string()];
    let state = state(record);
    let or_none = |text: &str| if text.is_empty() { NONE() } else { text.to_owned() };
    // Only a term that runs has an age, a last beat and an end.
    let of_the_term = |text: String| if state == "held" { text } else { NONE() };
    let whose = |text: &str| if ["held", "revoked"].contains(&state) { or_none(text) } else { NONE() };
    cells.extend([
        state.to_owned(),
        whose(&record.holder),
        record.epoch.to_string(),
        of_the_term(clock(now.0.saturating_sub(record.acquired_at.0))),
        of_the_term(clock(now.0.saturating_sub(record.renewed_at.0))),
        of_the_term(clock(record.expires_at.0.saturating_sub(now.0))),
    ]);
    if wide {
        cells.extend([
            whose(&record.region),
            record.work().map_or_else(NONE, str::to_owned),
            span(record.ttl()),
            record.transitions.to_string(),
            record.grant.map_or_else(NONE, |grant| grant.to_string()),
            or_none(&record.lineage.0),
            request(record).unwrap_or_else(NONE),
        ]);
    }
    cells
}

/// What an operator has asked for, or done.
fn request(record: &Record) -> Option<String> {
    if let Some(request) = writes::pending_request(record) {
        return Some(format!("step-down, by {}", request.by));
    }
    let revoked = Revocation::of(record)?;
    Some(if revoked.by.is_empty() { "revoked".to_owned() } else { format!("revoked, by {}", revoked.by) })
}

#[cfg(test)]
mod tests {
    use lease_core::internal::writes::{Fresh, init};
    use lease_core::{Grant, Lineage};
    use std::time::Duration;

    use super::*;

    fn held(holder: &str, at: i64) -> Observation {
        let absent =
            Observation { record: None, lineage: Lineage("l".into()), floor: 0, version: String::new() };
        let record = init(&absent, Duration::from_secs(15), 0, None, &Fresh::random());
        let (ttl_ms, grant) = (15_000, Some(Grant(7)));
        let record = Record {
            grant,
            ttl_ms,
            holder: holder.into(),
            beat: 1,
            acquired_at: WallTime(at - 3_700_000),
            renewed_at: WallTime(at - 4_000),
            expires_at: WallTime(at + 11_000),
            ..record
        };
        Observation { record: Some(record), ..absent }
    }

    #[test]
    fn a_term_shows_its_age_its_last_beat_and_the_time_left() {
        let name = LeaseName::new("nightly").expect("a name");
        let seen = held("pod-a", 1_000_000_000);
        assert_eq!(
            cells(&name, &seen, WallTime(1_000_000_000), false)[1..],
            ["held", "pod-a", "0", "1h1m", "4s", "11s"]
        );
        // Its holder's clock may be ahead of ours, or its time over.
        let cells = cells(&name, &seen, WallTime(1_000_014_000), true);
        assert_eq!(cells[4..7], ["1h1m", "18s", "-3s"]);
        assert_eq!(cells.len(), HEADER.len() + WIDE.len());
    }
}
