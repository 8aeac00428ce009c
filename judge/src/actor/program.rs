//! The program of an actor's process.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use lease_core::internal::step;
use lease_core::{Clock, Elector, Leadership, WorkloadId};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

use super::sampler::Sampler;
use super::teller::Teller;
use super::{ActorStore, EffectOrders, Orders};
use crate::history::{Outcome, What};
use crate::recorder::Recorder;
use crate::recording::recorded;
use crate::resource::{EffectError, FencedResource};

/// The main function of an actor's process: carries out its [`Orders`] until SIGTERM or SIGINT, and releases.
///
/// After SIGUSR1 it stops itself (SIGSTOP) between its next check and the effect that the check allowed, which it makes
/// as soon as it is continued, without another check. To be called on the process's main thread, outside of any
/// runtime: only there has the stop taken effect when the call that sends it returns.
pub fn actor_main(store: Arc<dyn ActorStore>) -> ExitCode {
    let act = || {
        let orders = Orders::of_this_process()?;
        if orders.trace.is_none() {
            end_with_the_parent();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start a runtime")?.block_on(act(store, orders))
    };
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn end_with_the_parent() {
    // A stopped process does not see that its standard input has ended. The thread that started it is its case's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // A thread of its own: it also ends a process whose runtime hangs.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(3);
    });
}

async fn act(store: Arc<dyn ActorStore>, orders: Orders) -> anyhow::Result<()> {
    let recorder = match &orders.trace {
        Some(path) => Recorder::appending(path)?,
        None => Recorder::printing(),
    };
    let pause = pause_on_request()?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let orders = Arc::new(orders);
    let teller = Teller::new(recorder.clone(), orders.clone());
    // Only now: from here on it hears signals.
    teller.tell(What::Campaigning { ttl_ms: orders.ttl_ms, poll_ms: orders.ttl_ms / 3 });
    let step = recorded(recorder, orders.lease.clone(), orders.actor.clone(), Arc::new(step::step));
    let connected = store.clone();
    let connector = move || {
        let store = connected.clone();
        async move { store.connect().await }
    };
    let workload = WorkloadId::new(orders.holder.clone()).map_err(|error| anyhow!("{error}"))?;
    let elector = Elector::builder(connector, orders.lease.clone(), workload)
        .ttl(Duration::from_millis(orders.ttl_ms))
        .step(step)
        .build()
        .map_err(|error| anyhow!("{error}"))?;
    let sampler = Sampler::start(teller.clone());
    let worker = Arc::new(Worker::new(store, teller.clone(), pause).await);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let work = |leadership: Leadership| {
        let (worker, sampler) = (worker.clone(), sampler.clone());
        async move {
            sampler.leads(Some(leadership.clone()));
            worker.work(&leadership).await;
            sampler.leads(None);
            Ok::<_, std::convert::Infallible>(())
        }
    };
    let ended = elector.run_until(shutdown, work).await;
    teller.tell(What::Left);
    ended.map(drop).map_err(|error| anyhow!("{error}"))
}

/// Set by SIGUSR1: the process is to stop itself before its next effect.
fn pause_on_request() -> anyhow::Result<Arc<AtomicBool>> {
    let (wanted, mut asked) = (Arc::new(AtomicBool::new(false)), signal(SignalKind::user_defined1())?);
    let pause = wanted.clone();
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            pause.store(true, Ordering::SeqCst);
        }
    });
    Ok(wanted)
}

struct Worker {
    store: Arc<dyn ActorStore>,
    teller: Teller,
    pause: Arc<AtomicBool>,
    state: Mutex<State>,
}

struct State {
    /// `None` after it could not be opened.
    resource: Option<Arc<dyn FencedResource>>,
    /// The number of the last effect.
    number: u64,
}

impl Worker {
    /// Opens the resource in advance, if it can be.
    async fn new(store: Arc<dyn ActorStore>, teller: Teller, pause: Arc<AtomicBool>) -> Self {
        let resource = match &teller.orders().effects {
            Some(effects) => store.resource(&effects.resource).await.ok(),
            None => None,
        };
        Self { store, teller, pause, state: Mutex::new(State { resource, number: 0 }) }
    }

    async fn work(&self, leadership: &Leadership) {
        let Some(effects) = &self.teller.orders().effects else { return leadership.stop_requested().await };
        let Some(every) = effects.every_ms.map(Duration::from_millis) else {
            self.effect(effects, leadership).await;
            return leadership.stop_requested().await;
        };
        while leadership.should_continue() {
            self.effect(effects, leadership).await;
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = leadership.stop_requested() => {}
            }
        }
    }

    async fn effect(&self, effects: &EffectOrders, leadership: &Leadership) {
        if !leadership.is_leader_now() {
            return;
        }
        let sent = Clock::boot().now();
        if self.pause.swap(false, Ordering::SeqCst) {
            self.stop_here();
        }
        let mut state = self.state.lock().await;
        state.number += 1;
        let term = leadership.term();
        let id = format!("{}/{}", self.teller.orders().actor, state.number);
        let limit = effects.limit_ms.unwrap_or(self.teller.orders().ttl_ms / 2);
        let limit = Duration::from_millis(limit);
        let write = async {
            if state.resource.is_none() {
                state.resource = Some(self.store.resource(&effects.resource).await?);
            }
            let resource = state.resource.as_ref().context("just opened")?;
            Ok(match resource.effect(term, &id).await {
                Ok(()) => Outcome::Written,
                Err(EffectError::Stale(_) | EffectError::AboveCeiling(_)) => Outcome::Refused,
                Err(EffectError::Failed(error)) => Outcome::Failed(error),
            })
        };
        let outcome = match tokio::time::timeout(limit, write).await {
            Ok(outcome) => {
                outcome.unwrap_or_else(|error: anyhow::Error| Outcome::Failed(format!("{error:#}")))
            }
            Err(_) => Outcome::Failed(format!("no answer within {limit:?}")),
        };
        if outcome == Outcome::Refused {
            leadership.fence_refused();
        }
        self.teller.tell(What::Effect { resource: effects.resource.clone(), id, term, sent, outcome });
    }

    /// Between two effects: stopped within one, it would hold the resource's lock, and nobody could act.
    fn stop_here(&self) {
        self.teller.tell(What::Paused);
        // The kernel prefers the main thread, which stops before this returns.
        kill_process(getpid(), Signal::STOP).expect("a process may stop itself");
    }
}
