//! The table of cases, and how one is run.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use lease_core::Capabilities;
use lease_judge::invariants::Violation;
use lease_judge::{Patience, acceptor};
use tokio_util::sync::CancellationToken;

use crate::check::StoodStill;
use crate::context::{Aside, Cx};
use crate::harness::{Facility, Harness};
use crate::step::Core;

/// A case fails when anything that it waits for takes longer.
pub const PATIENCE: Patience = Patience(Duration::from_secs(30));

pub(crate) type CaseFuture = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// One case: a behaviour that every backend, or every backend of a kind, must show.
#[derive(Clone, Copy)]
pub struct Case {
    /// `group::behaviour`, in the words of what it defends.
    pub id: &'static str,
    /// The store or its harness must offer these.
    pub needs: &'static [Need],
    pub(crate) run: fn(Arc<Cx>) -> CaseFuture,
}

/// A precondition of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// [`Capabilities::watch`]
    Watch,
    /// [`Capabilities::list`]
    List,
    /// [`Capabilities::history`]
    History,
    /// The backend doesn't offer [`Capabilities::watch`]: its refusal is judged.
    NoWatch,
    /// The backend doesn't offer [`Capabilities::list`]: its refusal is judged.
    NoList,
    /// The backend doesn't offer [`Capabilities::history`]: its refusal is judged.
    NoHistory,
    /// Candidates don't create registers.
    LosesRegisters,
    /// Candidates create registers.
    CreatesRegisters,
    /// The harness offers it.
    Facility(Facility),
}

impl Need {
    /// Why the case can't run, or `None`.
    fn unmet(self, harness: &dyn Harness, capabilities: &Capabilities) -> Option<String> {
        let name = harness.name();
        let (met, why) = match self {
            Self::Watch => (capabilities.watch, format!("{name} does not offer watch")),
            Self::List => (capabilities.list, format!("{name} does not offer list")),
            Self::History => (capabilities.history, format!("{name} does not keep history")),
            Self::NoWatch => {
                (!capabilities.watch, format!("{name} offers watch, there is no refusal to judge"))
            }
            Self::NoList => (!capabilities.list, format!("{name} offers list, there is no refusal to judge")),
            Self::NoHistory => {
                (!capabilities.history, format!("{name} keeps history, there is no refusal to judge"))
            }
            Self::LosesRegisters => (
                !capabilities.creates_registers,
                format!("{name} cannot lose registers while it keeps its lineage"),
            ),
            Self::CreatesRegisters => (
                capabilities.creates_registers,
                format!("{name} can lose registers, so candidates create none"),
            ),
            Self::Facility(facility) => (harness.facilities().contains(&facility), harness.why_not(facility)),
        };
        (!met).then_some(why)
    }
}

impl Case {
    /// Why the case can't run on this store, or `None` if it can.
    pub fn ignored_because(&self, harness: &dyn Harness, capabilities: &Capabilities) -> Option<String> {
        self.needs.iter().find_map(|need| need.unmet(harness, capabilities))
    }

    /// Runs the case on a runtime of its own, and judges its history by every invariant and by the acceptor.
    pub fn run(&self, harness: Arc<dyn Harness>, core: Core, patience: Patience) -> Result<Duration, String> {
        let never = CancellationToken::new();
        self.run_until(&never, harness, core, patience, None).expect("never cancelled")
    }

    /// Runs it on what is wrong by purpose, judged by the case and the invariants alone. Beside the outcome: what the
    /// acceptor can't explain of what was recorded, however the case ended.
    pub(crate) fn try_out(
        &self,
        harness: Arc<dyn Harness>,
        core: Core,
        patience: Patience,
    ) -> (Result<Duration, String>, Vec<Violation>) {
        let (never, aside) = (CancellationToken::new(), Aside::default());
        let outcome = self.run_until(&never, harness, core, patience, Some(aside.clone()));
        let recorders = std::mem::take(&mut *aside.lock().expect("not poisoned"));
        let histories = recorders
            .iter()
            .flat_map(|recorder| recorder.leases().into_iter().map(|lease| recorder.history(&lease)));
        let unexplained = histories.flat_map(|history| acceptor::explain(&history)).collect();
        (outcome.expect("never cancelled"), unexplained)
    }

    /// The same, unless it is cancelled: then it is dropped with all that it had started, and there is no outcome.
    pub(crate) fn run_until(
        &self,
        cancel: &CancellationToken,
        harness: Arc<dyn Harness>,
        core: Core,
        patience: Patience,
        aside: Option<Aside>,
    ) -> Option<Result<Duration, String>> {
        let began = Instant::now();
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Some(Err(format!("cannot start a runtime: {error}"))),
        };
        let outcome =
            runtime.block_on(cancel.run_until_cancelled(self.judged(harness, core, patience, aside)));
        runtime.shutdown_background();
        let told = |error: anyhow::Error| {
            let mut chain: Vec<_> = error.chain().map(ToString::to_string).collect();
            chain.reverse();
            chain.join("\n")
        };
        outcome.map(|outcome| outcome.map(|()| began.elapsed()).map_err(told))
    }

    async fn judged(
        &self,
        harness: Arc<dyn Harness>,
        core: Core,
        patience: Patience,
        aside: Option<Aside>,
    ) -> anyhow::Result<()> {
        let cx = Cx::new(harness, core, patience, aside);
        let case = AssertUnwindSafe((self.run)(cx.clone())).catch_unwind();
        let outcome = match tokio::time::timeout(patience.0 * 3, case).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(anyhow::anyhow!("the case panicked")),
            Err(_) => Err(anyhow::anyhow!("the case timed out after {:?}", patience.0 * 3)),
        };
        match outcome {
            Ok(()) => cx.judge().await,
            Err(error) if error.is::<StoodStill>() => {
                eprintln!("{}: {error}, so only the invariants are judged", self.id);
                cx.judge().await
            }
            failed => {
                // Ends the actors all the same; the first failure is the one to tell.
                let _ = tokio::time::timeout(Duration::from_secs(1), cx.end_actors()).await;
                failed.map_err(|error| error.context(format!("what happened:\n{}", cx.tell())))
            }
        }
    }
}

/// Names the cases of one group: `group::function`.
macro_rules! cases {
    ($group:literal: $($name:ident $(needs [$($need:expr),+])?),+ $(,)?) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            id: concat!($group, "::", stringify!($name)),
            needs: &[$($($need),+)?],
            run: |cx| Box::pin($name(cx)),
        }),+];
    };
}
pub(crate) use cases;
