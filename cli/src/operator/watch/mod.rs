//! `leasehold watch`: a live timeline of holders, judged by the beats that this process sees itself.

mod follow;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use lease_core::{Clock, Instant, LeaseName, printable};
use lease_settings::{App, Failure};
use lease_worker_common::shutdown;
use serde_json::json;

use super::output::{print, span};
use super::session::{Session, Target};
use super::wakes::RegisterWakes;
use follow::{Follower, Happening};

/// Follow leases live: changes of holder, silences, requests
///
/// Whether a holder beats is judged by the beats that this command sees and by its own clock, as a candidate would.
/// Ends by Ctrl-C or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold watch
  leasehold watch outbox-forwarder --json")]
pub(crate) struct Watch {
    /// Write JSON, one line for each thing that happens, beats included
    #[arg(long)]
    json: bool,
    /// The lease [default: all in the store]
    #[arg(id = "LEASE")]
    lease: Option<LeaseName>,
}

/// The polling interval without hints. A silence is judged at most this much late.
const EVERY: Duration = Duration::from_millis(500);

/// The time limit for clearing the live line at the end.
const LAST_WORD: Duration = Duration::from_millis(200);

pub(super) fn run(args: &Watch, app: &App) -> Result<ExitCode, Failure> {
    let target = Target::of(app)?;
    app.block_on(async {
        let stop = shutdown::token().map_err(|error| Failure::new(error.to_string()))?;
        let mut screen = Screen::new(args.json);
        let watched = async {
            let description = target.store.to_string();
            let session = target.connect().await?;
            screen.begin(args.lease.as_ref(), &description).await?;
            follow_for_ever(&session, args, &mut screen).await
        };
        let end = tokio::select! {
            end = watched => end,
            () = stop.cancelled() => Ok(()),
        };
        // A terminal that was stopped, or a reader that reads no more, holds up nobody's end.
        let _ = tokio::time::timeout(LAST_WORD, screen.end()).await;
        end.map(|()| ExitCode::SUCCESS)
    })
}

async fn follow_for_ever(session: &Session, args: &Watch, screen: &mut Screen) -> Result<(), Failure> {
    let prefix = args.lease.as_ref().map_or("", LeaseName::as_str);
    let mut wakes = RegisterWakes::new(session, prefix, EVERY).await;
    let mut followers: BTreeMap<LeaseName, Follower> = BTreeMap::new();
    let (mut answered, mut failing) = (false, false);
    loop {
        let seen = match &args.lease {
            Some(name) => {
                session.read(session.backend.observe(name)).await.map(|seen| vec![(name.clone(), Ok(seen))])
            }
            None => session.read(session.backend.list("")).await,
        };
        let now = screen.clock.now();
        match seen {
            Ok(seen) => {
                answered = true;
                if std::mem::take(&mut failing) {
                    screen.store("store_answers", "the lease store answers again").await?;
                }
                for (name, observation) in seen {
                    // `status` says which can't be read.
                    let Ok(observation) = observation else { continue };
                    let follower = followers.entry(name.clone()).or_default();
                    for what in follower.observe(observation, now) {
                        screen.tell(&name, &what).await?;
                    }
                }
            }
            Err(failure) if !answered => return Err(failure),
            Err(failure) => {
                if !std::mem::replace(&mut failing, true) {
                    screen.store("store_failed", &failure.to_string()).await?;
                }
                for (name, follower) in &mut followers {
                    if let Some(what) = follower.judge(now) {
                        screen.tell(name, &what).await?;
                    }
                }
            }
        }
        screen.live(&followers).await?;
        wakes.next().await;
    }
}

/// Standard output: lines, and on a terminal one live line below them.
struct Screen {
    json: bool,
    live: bool,
    clock: Clock,
    started: Instant,
}

impl Screen {
    fn new(json: bool) -> Self {
        let clock = Clock::boot();
        Self { json, live: !json && stdout().is_terminal(), started: clock.now(), clock }
    }

    async fn begin(&self, lease: Option<&LeaseName>, store: &str) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let which = lease.map_or("all leases".to_owned(), |lease| format!("lease {lease}"));
        print(format!("watching {which} in {store}; times are UTC, Ctrl-C ends\n")).await
    }

    async fn tell(&self, name: &LeaseName, what: &Happening) -> Result<(), Failure> {
        if self.json {
            let what = serde_json::to_value(what).unwrap_or_default();
            return self.as_json(json!({ "lease": name }), &what).await;
        }
        match in_words(what) {
            Some(words) => self.line(&format!("{name}  {words}")).await,
            None => Ok(()),
        }
    }

    async fn store(&self, event: &str, words: &str) -> Result<(), Failure> {
        if self.json {
            return self.as_json(json!({}), &json!({ "event": event, "message": words })).await;
        }
        self.line(words).await
    }

    async fn as_json(&self, mut base: serde_json::Value, what: &serde_json::Value) -> Result<(), Failure> {
        let elapsed = self.clock.now().since(self.started).as_millis() as u64;
        base["at"] = Timestamp::now().to_string().into();
        base["elapsed_ms"] = elapsed.into();
        for (key, value) in what.as_object().into_iter().flatten() {
            base[key] = value.clone();
        }
        print(format!("{}\n", printable(&base.to_string()))).await
    }

    async fn line(&self, words: &str) -> Result<(), Failure> {
        let clear = if self.live { "\r\x1b[K" } else { "" };
        let words = printable(words);
        print(format!("{clear}{}  {words}\n", Timestamp::now().strftime("%H:%M:%S%.3f"))).await
    }

    async fn live(&self, followers: &BTreeMap<LeaseName, Follower>) -> Result<(), Failure> {
        if !self.live {
            return Ok(());
        }
        let now = self.clock.now();
        let of_one = |(name, follower): (&LeaseName, &Follower)| {
            let record = follower.record()?;
            let age = span(follower.age(now)?);
            Some(match record.grant {
                Some(_) if !record.holder.is_empty() => {
                    format!(
                        "{name}: {} epoch {} beat {}, {age} ago",
                        record.holder, record.epoch, record.beat
                    )
                }
                Some(_) => format!("{name}: closed for {age}"),
                None => format!("{name}: free"),
            })
        };
        let all: Vec<_> = followers.iter().filter_map(of_one).collect();
        let text: String = printable(&all.join(" · ")).chars().take(78).collect();
        print(format!("\r\x1b[K{text}")).await
    }

    async fn end(&self) -> Result<(), Failure> {
        if self.live { print("\r\x1b[K".to_owned()).await } else { Ok(()) }
    }
}

/// One line for people; beats are no news.
fn in_words(what: &Happening) -> Option<String> {
    let after = |ms: &u64| span(Duration::from_millis(*ms));
    let nobody = |holder: &str| if holder.is_empty() { "nobody".to_owned() } else { holder.to_owned() };
    Some(match what {
        Happening::Seen { state: "held", holder, epoch } => format!("held by {holder}, epoch {epoch}"),
        Happening::Seen { state: "closed", .. } => "closed: created without a holder".to_owned(),
        Happening::Seen { state: "free", holder, .. } if holder.is_empty() => {
            "free; nobody has held it yet".to_owned()
        }
        Happening::Seen { state: "free", holder, epoch } => {
            format!("free, last epoch {epoch}, last held by {holder}")
        }
        Happening::Seen { state, holder, epoch } => {
            format!("{state}, epoch {epoch}, last held by {}", nobody(holder))
        }
        Happening::Absent => "there is no such lease in this store".to_owned(),
        Happening::Deleted { holder, epoch } => {
            format!("deleted from the store (epoch {epoch} of {}): its holder restores it", nobody(holder))
        }
        Happening::Acquired { holder, epoch, from, unseen_changes } => {
            let how = if from.is_empty() || from == holder {
                format!("{holder} took it")
            } else {
                format!("{holder} took it over from {from}")
            };
            let unseen = match unseen_changes {
                0 => String::new(),
                n => format!("; {n} changes before it went by unseen, see `leasehold history`"),
            };
            format!("{how}, epoch {epoch}{unseen}")
        }
        Happening::Beat { .. } => return None,
        Happening::Silent { holder, silent_ms, ttl_ms, .. } => {
            format!("{holder} silent for {} of {}", after(silent_ms), after(ttl_ms))
        }
        Happening::BeatingAgain { holder, silent_ms, .. } => {
            format!("{holder} beating again after {}", after(silent_ms))
        }
        Happening::MayBeTaken { holder, silent_ms, .. } => {
            let how = if holder.is_empty() { "closed".to_owned() } else { format!("{holder} silent") };
            format!("{how} for {}: a candidate may take it", after(silent_ms))
        }
        Happening::Released { holder, epoch, asked } => {
            let why = if *asked { " because it was asked to" } else { "" };
            format!("{holder} released it{why}, epoch {epoch}")
        }
        Happening::Revoked { holder, epoch, free, note } => {
            let next = if *free { "free at once" } else { "waited out for one ttl" };
            format!("an operator ended the term of {}, epoch now {epoch}, {next}: {note}", nobody(holder))
        }
        Happening::StepDownAsked { holder, by, .. } => format!("{by} asked {holder} to step down"),
        Happening::Sealed { note } => format!("moved to another store: {note}"),
    })
}
