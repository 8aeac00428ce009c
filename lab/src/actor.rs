//! The process under test: it campaigns, and while it leads it makes fenced effects. Everything it does is written
//! into its trace.
//!
//! SIGTERM and SIGINT end it in order. After SIGUSR1 it stops itself (SIGSTOP) between its next check and the effect
//! that the check allowed, which it makes as soon as somebody continues it, without looking again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_core::{Elector, EventKind, Leadership, LeaseName, WorkloadId};
use lease_stores::Place;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;

use crate::effects::{Effect, Effects};
use crate::judge::Incarnation;
use crate::recording::Recording;
use crate::trace::{Entry, Outcome, Trace, now};

/// How often it writes down whether it may act.
const CLAIM_EVERY: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    pub(crate) lease: LeaseName,
    #[arg(long)]
    pub(crate) workload: String,
    #[arg(long)]
    pub(crate) incarnation: Incarnation,
    #[arg(long)]
    pub(crate) ttl_ms: u64,
    #[arg(long)]
    pub(crate) trace: PathBuf,
    /// The pause between two effects; without it, one effect a term.
    #[arg(long)]
    pub(crate) every_ms: Option<u64>,
}

impl Args {
    /// The command line of such a process.
    pub(crate) fn to_args(&self) -> Vec<String> {
        let mut args = vec!["actor".to_owned()];
        for (name, value) in [
            ("--lease", self.lease.to_string()),
            ("--workload", self.workload.clone()),
            ("--incarnation", self.incarnation.to_string()),
            ("--ttl-ms", self.ttl_ms.to_string()),
            ("--trace", self.trace.display().to_string()),
        ] {
            args.extend([name.to_owned(), value]);
        }
        args.extend(self.every_ms.into_iter().flat_map(|every| ["--every-ms".to_owned(), every.to_string()]));
        args
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let place = Place::of_this_process()?;
    let trace = Trace::append(&args.trace)?;
    let pause = pause_when_told()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Only now: from here on it hears what it is told.
    trace.add(&Entry::Started { at: now(), pid: std::process::id() });
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let recording = Recording { connector: place.connector()?, trace: trace.clone() };
    let elector = Elector::builder(recording, args.lease.clone(), WorkloadId::new(&args.workload)?)
        .ttl(Duration::from_millis(args.ttl_ms))
        .build()?;
    let mut events = elector.events();
    let told = trace.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event.map(|event| event.kind) {
                Ok(EventKind::Watching(live)) => told.add(&Entry::Watching { at: now(), live }),
                Ok(EventKind::Ended { term, loss }) => {
                    told.add(&Entry::Ended { at: now(), term, loss: loss.to_string() });
                }
                _ => {}
            }
        }
    });
    let claimant = Claimant::start(trace.clone());
    let effects = Effects::open(&place, args.lease.as_str()).await.ok();
    let state = tokio::sync::Mutex::new((effects, 0));
    let worker = Arc::new(Worker { args, place, trace: trace.clone(), pause, state });
    let ended = elector
        .run_until(shutdown, |leadership| {
            let (worker, claimant, trace) = (worker.clone(), claimant.clone(), trace.clone());
            async move {
                trace.add(&Entry::Begin { at: now(), term: leadership.term() });
                claimant.leads(Some(leadership.clone()));
                worker.work(&leadership).await;
                claimant.leads(None);
                let at = now();
                let leading = leadership.is_leader_now();
                trace.add(&Entry::Returned { at, term: leadership.term(), leading });
                Ok::<_, std::convert::Infallible>(())
            }
        })
        .await;
    trace.add(&Entry::Exit { at: now(), how: format!("{ended:?}") });
    ended?;
    Ok(ExitCode::SUCCESS)
}

fn pause_when_told() -> anyhow::Result<Arc<AtomicBool>> {
    let pause = Arc::new(AtomicBool::new(false));
    let (mut told, flag) = (signal(SignalKind::user_defined1())?, pause.clone());
    tokio::spawn(async move {
        while told.recv().await.is_some() {
            flag.store(true, Ordering::SeqCst);
        }
    });
    Ok(pause)
}

struct Worker {
    args: Args,
    place: Place,
    trace: Trace,
    pause: Arc<AtomicBool>,
    /// The resource, once it could be opened, and the number of the last effect.
    state: tokio::sync::Mutex<(Option<Effects>, u64)>,
}

impl Worker {
    async fn work(&self, leadership: &Leadership) {
        let Some(every) = self.args.every_ms.map(Duration::from_millis) else {
            self.effect(leadership).await;
            return leadership.stop_requested().await;
        };
        while !leadership.should_stop() {
            self.effect(leadership).await;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = leadership.stop_requested() => {}
            }
        }
    }

    async fn effect(&self, leadership: &Leadership) {
        if !leadership.is_leader_now() {
            return;
        }
        let before = now();
        if self.pause.swap(false, Ordering::SeqCst) {
            self.stop_here(leadership);
        }
        let mut state = self.state.lock().await;
        state.1 += 1;
        let (number, term) = (state.1, leadership.term());
        let effect = Effect { term, incarnation: self.args.incarnation, number, before };
        // A fenced transaction is bounded below the ttl (F-1).
        let limit = Duration::from_millis(self.args.ttl_ms / 2);
        let outcome = match tokio::time::timeout(limit, self.write(&mut state.0, &effect)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(format!("no answer within {limit:?}")),
        };
        if outcome == Outcome::Refused {
            leadership.fence_refused();
        }
        self.trace.add(&Entry::Effect { before, after: now(), number, term, outcome });
    }

    async fn write(&self, opened: &mut Option<Effects>, effect: &Effect) -> Outcome {
        let effects = match opened {
            Some(effects) => effects,
            None => match Effects::open(&self.place, self.args.lease.as_str()).await {
                Ok(effects) => opened.insert(effects),
                Err(error) => return Outcome::Failed(format!("{error:#}")),
            },
        };
        effects.write(effect).await
    }

    fn stop_here(&self, leadership: &Leadership) {
        self.trace.add(&Entry::Paused { at: now(), term: leadership.term() });
        kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
        // Another thread may have been chosen to take the signal: don't get past this before it has.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A thread that writes down, again and again, that the process may act, while it may.
#[derive(Clone)]
struct Claimant(Arc<Mutex<Option<Leadership>>>);

impl Claimant {
    fn start(trace: Trace) -> Self {
        let claimant = Self(Arc::default());
        let present = claimant.0.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(CLAIM_EVERY);
                // Held until it is written: no claim of a term is written after the term's return.
                let present = present.lock().expect("not poisoned");
                let Some(leadership) = &*present else { continue };
                let from = now();
                let remaining = leadership.remaining();
                if leadership.is_leader_now() {
                    let until = from + remaining.as_nanos() as u64;
                    trace.add(&Entry::Claim { from, to: now(), until, term: leadership.term() });
                }
            }
        });
        claimant
    }

    fn leads(&self, leadership: Option<Leadership>) {
        *self.0.lock().expect("not poisoned") = leadership;
    }
}
