//! Leases shown live: a table redrawn in place on a terminal, else a line for each change.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use console::{Term, truncate_str};
use lease_core::{LeaseName, Listed, Record, Tag, WallTime, printable};
use lease_settings::Failure;
use lease_worker_common::{shutdown, stderr};

use super::output::print;
use super::session::{Session, Target};
use super::show::{Show, as_json};
use super::table;
use super::wakes::RegisterWakes;
use super::which::Which;

/// The polling interval without hints, and how often ages are drawn anew.
const EVERY: Duration = Duration::from_secs(1);

/// However often a thousand holders beat, the store is read and the table drawn no more often than this.
const AT_MOST_EVERY: Duration = Duration::from_millis(200);

/// Until Ctrl-C or SIGTERM.
pub(super) async fn watch(how: &Show, which: &Which, target: Target) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(error.to_string()))?;
    let watched = async {
        let session = target.connect().await?;
        let mut wakes = RegisterWakes::new(&session, which.prefix(), EVERY).await;
        let mut screen = Screen::new(how);
        loop {
            screen.look(which, &session).await?;
            tokio::time::sleep(AT_MOST_EVERY).await;
            wakes.next().await;
        }
    };
    tokio::select! {
        end = watched => end,
        () = stop.cancelled() => Ok(ExitCode::SUCCESS),
    }
}

struct Screen<'a> {
    how: &'a Show,
    terminal: Option<Term>,
    /// Lines that the next drawing replaces.
    drawn: usize,
    /// Has the store ever answered?
    answered: bool,
    /// What was last told of each lease, where there is no terminal.
    told: BTreeMap<LeaseName, Told>,
    seen: Vec<Listed>,
    failed: Option<String>,
}

impl<'a> Screen<'a> {
    fn new(how: &'a Show) -> Self {
        let terminal = Some(Term::stdout()).filter(|term| term.is_term() && !how.is_json());
        Self {
            how,
            terminal,
            drawn: 0,
            answered: false,
            told: BTreeMap::new(),
            seen: Vec::new(),
            failed: None,
        }
    }

    async fn look(&mut self, which: &Which, session: &Session) -> Result<(), Failure> {
        let failed = match which.look(session).await {
            Ok(seen) => {
                self.seen = seen;
                self.answered = true;
                None
            }
            // As without --watch: what was asked for may never come.
            Err(failure) if !self.answered => return Err(failure),
            Err(failure) => Some(failure.to_string()),
        };
        let before = std::mem::replace(&mut self.failed, failed);
        if let Some(terminal) = self.terminal.clone() {
            return self.draw(&terminal).await;
        }
        match (before, &self.failed) {
            (None, Some(failed)) => stderr::line(format_args!("error: {}", printable(failed))),
            (Some(_), None) => stderr::line("the lease store answers again"),
            _ => {}
        }
        self.tell().await
    }

    /// Over the last drawing, and never more than the terminal has room for.
    async fn draw(&mut self, terminal: &Term) -> Result<(), Failure> {
        let mut lines = table::lines(&self.seen, self.how);
        let (rows, columns) = terminal.size();
        let room = usize::from(rows).saturating_sub(2 + usize::from(self.failed.is_some())).max(1);
        if lines.len() > room {
            let more = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("… and {more} more: name a prefix, or use a greater window"));
        }
        lines.extend(self.failed.as_ref().map(|failed| printable(&format!("error: {failed}")).into_owned()));
        let up = if self.drawn == 0 { String::new() } else { format!("\r\x1b[{}A", self.drawn) };
        let fitting = lines.iter().map(|line| truncate_str(line, usize::from(columns), "…"));
        let text: String = fitting.map(|line| format!("{line}\x1b[K\n")).collect();
        self.drawn = lines.len();
        print(format!("{up}{text}\x1b[J")).await
    }

    /// The leases that have changed in more than a beat.
    async fn tell(&mut self) -> Result<(), Failure> {
        let now: BTreeMap<_, _> =
            self.seen.iter().map(|entry| (entry.0.clone(), without_beat(entry))).collect();
        let is_news = |(name, _): &Listed| self.told.get(name) != now.get(name);
        let news: Vec<_> = self.seen.iter().map(is_news).collect();
        let lines = match self.how.is_json() {
            true => self.seen.iter().map(|(name, seen)| as_json(name, seen).to_string()).collect(),
            // The whole table, so that its columns stay where they are.
            false => table::lines(&self.seen, self.how),
        };
        let header = lines.len() - self.seen.len();
        let mut text = String::new();
        for (at, line) in lines.iter().enumerate() {
            let wanted =
                if at < header { self.told.is_empty() && !news.is_empty() } else { news[at - header] };
            if wanted {
                text += &if self.how.is_json() { printable(line).into_owned() } else { line.clone() };
                text.push('\n');
            }
        }
        self.told = now;
        if text.is_empty() { Ok(()) } else { print(text).await }
    }
}

/// A record, or why there is none.
type Told = Result<Option<Record>, String>;

fn without_beat((_, seen): &Listed) -> Told {
    let (tag, never) = (Tag(0), WallTime(0));
    let plain = |record| Record { tag, beat: 0, renewed_at: never, expires_at: never, ..record };
    let seen = seen.as_ref().map_err(|error| format!("{error:#}"))?;
    Ok(seen.record.clone().map(plain))
}
