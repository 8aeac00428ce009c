//! The output for people: events line by line and, on a terminal, progress bars below them.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use console::style;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::timeline::{self, Activity, NAMES};
use super::witness::Witness;
use super::{Args, TTL};
use crate::epoch::epoch_in_words;

/// The interval at which the stores are read.
const LOOK: Duration = Duration::from_millis(100);
/// The number of reads after which a column of the timeline is drawn, rows are counted, and, without a terminal, a line printed.
const LOOKS_PER_SAMPLE: u64 = 5;
const LOOKS_PER_LINE: u64 = 50;
/// The number of samples over which rows per second are averaged.
const SAMPLES_PER_RATE: usize = 6;

/// The condition of a forwarder's process, as the script left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Up,
    Stopped,
    Killed,
    Paused,
}

/// The current state of the demo.
pub(super) struct Board {
    pub(super) written: Arc<AtomicU64>,
    ingested: AtomicU64,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    conditions: [Condition; 3],
    holder: Option<(String, u64)>,
    samples: Vec<[Activity; 3]>,
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes what was done to a forwarder.
    pub(super) fn set(&self, number: usize, condition: Condition) {
        self.state().conditions[number] = condition;
    }

    /// The timeline's columns, one for each half second.
    pub(super) fn samples(&self) -> Vec<[Activity; 3]> {
        self.state().samples.clone()
    }
}

impl State {
    fn cells(&self) -> [Activity; 3] {
        std::array::from_fn(|number| match self.conditions[number] {
            Condition::Stopped => Activity::Stopped,
            Condition::Killed => Activity::Killed,
            Condition::Paused => Activity::Paused,
            Condition::Up => match &self.holder {
                Some((holder, epoch)) if holder == NAMES[number] => Activity::Leads(*epoch),
                _ => Activity::StandsBy,
            },
        })
    }
}

/// The output for people.
pub(super) struct Screen {
    board: Arc<Board>,
    to_stderr: bool,
    least_rows: u64,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    rows: ProgressBar,
    forwarders: [ProgressBar; 3],
}

impl Screen {
    /// On standard output, or on standard error if that is kept for JSON.
    pub(super) fn new(to_stderr: bool, least_rows: u64) -> Self {
        let board = Board {
            written: Arc::default(),
            ingested: AtomicU64::new(0),
            began: Instant::now(),
            state: Mutex::new(State { conditions: [Condition::Up; 3], holder: None, samples: Vec::new() }),
        };
        let terminal =
            if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        console::set_colors_enabled(terminal);
        Self { board: Arc::new(board), to_stderr, least_rows, bars: terminal.then(|| Bars::new(to_stderr)) }
    }

    /// The current state of the demo.
    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// Says what is going to happen.
    pub(super) fn title(&self, args: &Args) {
        self.line(&format!(
            "{}",
            style("Leasehold: three forwarders, one lease, a minute of trouble").bold()
        ));
        self.line(&format!(
            "  A ledger writes {} audit rows a second into an outbox. Whichever forwarder holds the lease sends them\n  \
             on to an ingest. We stop, kill and pause the leaders meanwhile. Every process is the real program.\n  \
             store: {} · ttl {} s (a short one, so that you needn't wait) · at least {} rows\n",
            args.rate,
            args.mode.about(),
            TTL.as_secs(),
            grouped(args.rows),
        ));
    }

    /// One line of the story, with the time.
    pub(super) fn say(&self, text: &str) {
        let at = style(format!("{:>5.1} s", self.board.began.elapsed().as_secs_f64())).dim();
        self.line(&format!("{at}  {text}"));
    }

    /// The heading of an act.
    pub(super) fn act(&self, text: &str) {
        self.say(&style(text).cyan().bold().to_string());
    }

    /// A remark.
    pub(super) fn note(&self, text: &str) {
        self.line(&style(text).dim().to_string());
    }

    /// A line as it is.
    pub(super) fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| self.print(text)),
            None => self.print(text),
        }
    }

    fn print(&self, text: &str) {
        if self.to_stderr { eprintln!("{text}") } else { println!("{text}") }
    }

    /// Takes the bars away.
    pub(super) fn end(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.all.clear();
        }
    }

    /// Looks at the stores until aborted: says who leads, moves the bars, draws the timeline.
    pub(super) fn watch(self: Arc<Self>, witness: Arc<Witness>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(LOOK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut counts = VecDeque::from([(0, Instant::now())]);
            for look in 0_u64.. {
                tick.tick().await;
                // A look that fails is followed by another: the verdict doesn't rest on these.
                if let Ok(holder) = witness.holder().await {
                    self.holder_is(holder);
                }
                if look.is_multiple_of(LOOKS_PER_SAMPLE) {
                    if let Ok(ingested) = witness.ingested().await {
                        self.board.ingested.store(ingested, Ordering::Relaxed);
                    }
                    let mut state = self.board.state();
                    let cells = state.cells();
                    state.samples.push(cells);
                    drop(state);
                    self.show(&mut counts, look);
                }
            }
        })
    }

    fn holder_is(&self, holder: Option<(String, u64)>) {
        let mut state = self.board.state();
        if state.holder == holder {
            return;
        }
        state.holder.clone_from(&holder);
        drop(state);
        if let Some((name, epoch)) = holder {
            self.say(&format!(
                "{} leads {}",
                style(name).green(),
                style(format!("epoch {}", epoch_in_words(epoch))).bold()
            ));
        }
    }

    fn show(&self, counts: &mut VecDeque<(u64, Instant)>, look: u64) {
        let (written, ingested) =
            (self.board.written.load(Ordering::Relaxed), self.board.ingested.load(Ordering::Relaxed));
        // Over the last samples: rows come in bursts.
        let (before, at) = counts[0];
        let rate = ingested.saturating_sub(before) as f64 / at.elapsed().as_secs_f64().max(0.001);
        counts.push_back((ingested, Instant::now()));
        if counts.len() > SAMPLES_PER_RATE {
            counts.pop_front();
        }
        match &self.bars {
            Some(bars) => {
                bars.rows.set_length(written.max(self.least_rows));
                bars.rows.set_position(ingested);
                bars.rows.set_message(format!(
                    "of {} written · {} rows/s",
                    grouped(written),
                    grouped(rate as u64)
                ));
                let samples = self.board.samples();
                let (rows, _) = timeline::rows(&samples[samples.len().saturating_sub(60)..], 60);
                for (bar, (row, cell)) in
                    bars.forwarders.iter().zip(rows.iter().zip(self.board.state().cells()))
                {
                    bar.set_message(format!("{row}  {}", timeline::word(cell)));
                }
            }
            None if look.is_multiple_of(LOOKS_PER_LINE) && look > 0 => {
                let cells = self.board.state().cells();
                let who: Vec<_> = NAMES
                    .iter()
                    .zip(cells)
                    .map(|(name, cell)| format!("{name} {}", timeline::word(cell)))
                    .collect();
                self.say(&format!(
                    "      {} of {} rows ingested, {} rows/s · {}",
                    grouped(ingested),
                    grouped(written),
                    grouped(rate as u64),
                    who.join(" · ")
                ));
            }
            None => {}
        }
    }
}

impl Bars {
    fn new(to_stderr: bool) -> Self {
        let target = if to_stderr { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        let all = MultiProgress::with_draw_target(target);
        let bar = |template: &str| {
            let style = ProgressStyle::with_template(template).expect("a valid template");
            all.add(ProgressBar::new(1).with_style(style.progress_chars("━━╌")))
        };
        let forwarders = NAMES.map(|name| bar(&format!("  {name}  {{msg}}")));
        let rows = bar("  rows         {bar:40.green/dim} {human_pos} ingested {msg}");
        Self { all, rows, forwarders }
    }
}

/// 12,345.
pub(super) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
