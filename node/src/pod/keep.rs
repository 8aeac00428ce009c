//! The containers of a pod: started, probed, restarted, ended.

use std::{sync::Mutex, time::Duration};

use k8s_openapi::{api::core::v1, jiff::Timestamp};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{BACKOFF, Kind, LONGEST_BACKOFF, Life, Place};
use crate::{
    container::{ContainerPlan, Running},
    lock::lock,
    probes::{self, Readiness},
    status::{ContainerState, Exit},
};

/// A container that ran this long starts with the first backoff again.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

impl Life {
    /// Runs a container again and again, as its pod's policy says; returns its last exit code.
    pub(super) async fn keep(&self, place: &Place, container: &v1::Container, kind: Kind) -> Option<i32> {
        let name = &container.name;
        let (mut backoff, mut restarts) = (BACKOFF, 0);
        loop {
            let begun = Instant::now();
            let ended = match self.start(place, container).await {
                Ok(running) => {
                    let began = Timestamp::now();
                    self.shared.update(name, |state| {
                        state.state = ContainerState::Running(began);
                        state.pid = Some(running.pid());
                        state.restarts = restarts;
                    });
                    restarts += 1;
                    let (code, message) = self.attend(place, container, &running, kind).await;
                    let ended = Exit { code, message, began, ended: Timestamp::now() };
                    self.shared.update(name, |state| {
                        state.state = ContainerState::Ended(ended.clone());
                        (state.pid, state.ready) = (None, kind == Kind::Init && code == 0);
                    });
                    Some(ended)
                }
                Err((reason, error)) => {
                    let error = format!("{error:#}");
                    self.tell(reason, &format!("container {name}: {error}"));
                    self.shared.update(name, |state| state.state = ContainerState::Waiting(reason, error));
                    None
                }
            };
            let code = ended.as_ref().map(|ended| ended.code);
            let again = match self.spec.restart_policy.as_deref() {
                Some("Never") => code.is_none(),
                Some("OnFailure") => code != Some(0),
                _ => kind == Kind::Main || code != Some(0),
            };
            if !again || self.leaving() {
                return code;
            }
            if begun.elapsed() > LONG_ENOUGH {
                backoff = BACKOFF;
            }
            if let Some(ended) = &ended {
                let message = format!("back-off {backoff:?} restarting failed container {name}");
                self.shared.update(name, |state| {
                    state.last = Some(ended.clone());
                    state.state = ContainerState::Waiting("CrashLoopBackOff", message);
                });
            }
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.stopping() => {
                    if let Some(ended) = ended {
                        self.shared.update(name, |state| state.state = ContainerState::Ended(ended));
                    }
                    return code;
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
        let image = self.host.image(asked).map_err(|error| ("ErrImagePull", error))?;
        let plan = ContainerPlan::new(&self.pod, container, image, &place.volumes, &place.hosts);
        let plan = plan.map_err(|error| ("CreateContainerConfigError", error))?;
        let (root, log) = (self.folder.join("root").join(&container.name), self.log(&container.name));
        plan.start(&place.network, &root, &log).await.map_err(|error| ("CreateContainerError", error))
    }

    /// Probes a container until it ends, ends it when that is due, and returns its exit code and why it was ended.
    async fn attend(
        &self,
        place: &Place,
        container: &v1::Container,
        running: &Running,
        kind: Kind,
    ) -> (i32, String) {
        let name = &container.name;
        let last = Mutex::new(String::new());
        let tell = |readiness| match readiness {
            Readiness::Ready => self.shared.update(name, |state| state.ready = true),
            Readiness::Unready => self.shared.update(name, |state| state.ready = false),
            Readiness::Failed(why) => {
                let mut last = lock(&last);
                if *last != why {
                    self.tell("Unhealthy", &format!("readiness probe failed: {why}"));
                    *last = why;
                }
            }
        };
        let probing = async {
            match kind {
                Kind::Init => std::future::pending().await,
                Kind::Main => probes::attend(container, place.network.ip, &tell).await,
            }
        };
        let why = tokio::select! {
            code = running.wait() => return (code, String::new()),
            why = probing => why,
            () = self.stopping() => String::new(),
        };
        self.shared.update(name, |state| state.ready = false);
        self.tell("Killing", &format!("stopping container {name} {why}"));
        running.signal(Signal::TERM);
        let code = tokio::select! {
            code = running.wait() => code,
            () = self.grace_over() => {
                running.signal(Signal::KILL);
                running.wait().await
            }
        };
        (code, why)
    }
}
