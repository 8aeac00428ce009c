//! A pod's containers: started, attended, restarted, ended.

use std::{fs, sync::Mutex, time::Duration};

use k8s_openapi::{api::core::v1, jiff::Timestamp};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{BACKOFF, Kind, LONGEST_BACKOFF, Life, Place, lock};
use crate::node::{
    container::{self, Plan, Running},
    environment,
    probes::{self, Target, Told},
    status::{Ended, State},
};

/// A container that ran this long has its backoff forgotten.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

impl Life {
    /// Runs a container again and again, as its pod's policy says; returns how it ended for good.
    pub(super) async fn keep(&self, place: &Place, container: &v1::Container, kind: Kind) -> Option<Ended> {
        let name = &container.name;
        let (mut backoff, mut restarts) = (BACKOFF, 0);
        loop {
            let begun = Instant::now();
            let ended = match self.start(place, container).await {
                Ok(running) => {
                    let began = Timestamp::now();
                    self.shared.update(name, |state| {
                        state.state = State::Running(began);
                        state.pid = Some(running.pid());
                        state.restarts += restarts;
                    });
                    let (code, signal, why) = self.attend(place, container, &running, kind).await;
                    let written = fs::read_to_string(self.message(name)).unwrap_or_default();
                    let message = if written.is_empty() { why } else { written };
                    let ended = Ended { code, signal, message, began, ended: Timestamp::now() };
                    self.shared.update(name, |state| {
                        state.state = State::Ended(ended.clone());
                        (state.pid, state.started, state.ready) =
                            (None, false, kind == Kind::Init && code == 0);
                    });
                    restarts = 1;
                    Some(ended)
                }
                Err((reason, error)) => {
                    let error = format!("{error:#}");
                    self.node.event(&self.pod, reason, &format!("container {name}: {error}"));
                    self.shared.update(name, |state| state.state = State::Waiting(reason, error));
                    None
                }
            };
            let policy = self.spec.restart_policy.as_deref().unwrap_or("Always");
            let again = ended.as_ref().is_none_or(|ended| match kind {
                Kind::Sidecar => true,
                Kind::Init => ended.code != 0 && policy != "Never",
                Kind::Main => policy == "Always" || policy == "OnFailure" && ended.code != 0,
            });
            if !again || self.is_stopping(kind) {
                return ended;
            }
            if begun.elapsed() > LONG_ENOUGH {
                backoff = BACKOFF;
            }
            if let Some(ended) = &ended {
                let message = format!("back-off {backoff:?} restarting failed container {name}");
                self.shared.update(name, |state| {
                    state.last = Some(ended.clone());
                    state.state = State::Waiting("CrashLoopBackOff", message);
                });
            }
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stopping(kind) => {
                    if let Some(ended) = &ended {
                        self.shared.update(name, |state| state.state = State::Ended(ended.clone()));
                    }
                    return ended;
                }
            }
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn start(
        &self,
        place: &Place,
        container: &v1::Container,
    ) -> Result<Running, (&'static str, anyhow::Error)> {
        let asked = container.image.as_deref().unwrap_or_default();
        let image = self.node.machine.image(asked).map_err(|error| ("ErrImagePull", error))?;
        let planned = async {
            let env = environment::of(&self.node, &self.pod, &self.ip.to_string(), image, container).await?;
            let message = self.message(&container.name);
            container::message_file(&message)?;
            Plan::new(&self.pod, container, image, env, &place.volumes, &place.hosts, &message)
        };
        let plan = planned.await.map_err(|error| ("CreateContainerConfigError", error))?;
        let (root, log) = (self.folder.join("root").join(&container.name), self.log(&container.name));
        plan.start(&place.network, &root, &log).await.map_err(|error| ("CreateContainerError", error))
    }

    /// Probes a container until it ends, ends it when that is due, and tells its exit code and signal.
    async fn attend(
        &self,
        place: &Place,
        container: &v1::Container,
        running: &Running,
        kind: Kind,
    ) -> (i32, Option<i32>, String) {
        let name = &container.name;
        let target = Target { container, running, ip: place.network.ip };
        let lifecycle = container.lifecycle.clone().unwrap_or_default();
        let last = Mutex::new(String::new());
        let tell = |told| match told {
            Told::Started => self.shared.update(name, |state| state.started = true),
            Told::Ready(ready) => self.shared.update(name, |state| state.ready = ready),
            Told::Unready(why) => {
                let mut last = lock(&last);
                if *last != why {
                    self.node.event(&self.pod, "Unhealthy", &why);
                    *last = why;
                }
            }
        };
        let probing = async {
            if let Some(hook) = &lifecycle.post_start
                && let Err(error) = probes::hook(&target, hook, self.grace()).await
            {
                return format!("the postStart hook failed: {error:#}");
            }
            if kind == Kind::Init {
                return std::future::pending().await;
            }
            probes::attend(&target, &tell).await
        };
        let why = tokio::select! {
            (code, signal) = running.wait() => return (code, signal, String::new()),
            why = probing => why,
            () = self.stopping(kind) => String::new(),
        };
        self.shared.update(name, |state| state.ready = false);
        let message = format!("Stopping container {name} {why}");
        self.node.event(&self.pod, "Killing", message.trim_end());
        let ask = async {
            if let Some(hook) = &lifecycle.pre_stop
                && let Err(error) = probes::hook(&target, hook, self.grace()).await
            {
                self.node.event(&self.pod, "FailedPreStopHook", &format!("{error:#}"));
            }
            running.signal(Signal::TERM);
            std::future::pending::<()>().await;
        };
        let (code, signal) = tokio::select! {
            ended = running.wait() => ended,
            () = ask => unreachable!("it asks once, and then waits"),
            () = self.grace_over() => {
                running.signal(Signal::KILL);
                running.wait().await
            }
        };
        (code, signal, why)
    }
}
