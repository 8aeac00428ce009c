//! Other processes of the same program: they find the store's place in their environment.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend};
use lease_judge::FencedResource;
use lease_judge::actor::{ActorStore, actor_main};

use crate::Place;

/// The argument of a process that is an actor: of the suite, or of a run of the lab.
pub const ACTOR_COMMAND: &str = "actor";

impl Place {
    /// The environment variable by which another process is given a place.
    pub const VARIABLE: &str = "LEASEHOLD_PLACE";

    /// The variable's value.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    /// The place that this process was given.
    ///
    /// # Errors
    /// It was given none.
    pub fn of_this_process() -> anyhow::Result<Self> {
        let variable = Self::VARIABLE;
        let place = std::env::var(variable)
            .with_context(|| format!("{variable} is not set: only another program starts this"))?;
        serde_json::from_str(&place).with_context(|| format!("{variable} is not a place"))
    }
}

#[async_trait]
impl ActorStore for Place {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Place::connect(self).await
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Place::resource(self, name).await
    }
}

/// The [`Harness::actor_command`](lease_conformance::Harness::actor_command) of a store.
pub(crate) fn command(place: &Place) -> Option<Command> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.arg(ACTOR_COMMAND).env(Place::VARIABLE, place.to_json());
    Some(command)
}

/// Runs `program`, or an actor in a process that was started for one. To be called by `main`, outside of any
/// runtime: an actor that stops itself by SIGSTOP goes no step further only on the main thread.
pub fn main_or_actor(program: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    let is_actor = std::env::args().nth(1).is_some_and(|argument| argument == ACTOR_COMMAND);
    let ended =
        if is_actor { Place::of_this_process().map(|place| actor_main(Arc::new(place))) } else { program() };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Starts a store, in a program that has no runtime.
///
/// # Errors
/// When it can't be started.
pub fn start<S>(store: impl Future<Output = anyhow::Result<S>>) -> anyhow::Result<Arc<S>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(store).map(Arc::new)
}
