//! The status of a pod, as its node reports it.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use rustix::process::Pid;
use serde_json::{Value, json};

/// The present state of one container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) init: bool,
    pub(crate) state: ContainerState,
    pub(crate) last: Option<Exit>,
    pub(crate) restarts: i32,
    pub(crate) ready: bool,
    /// Its main process, while it runs.
    pub(crate) pid: Option<Pid>,
}

#[derive(Clone, Debug)]
pub(crate) enum ContainerState {
    Waiting(&'static str, String),
    Running(Timestamp),
    Ended(Exit),
}

/// The end of a container.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    /// Why the node ended it, if it did.
    pub(crate) message: String,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
}

/// The addresses of a pod and its node.
pub(crate) struct Addresses {
    /// `None` while the pod has no network.
    pub(crate) pod: Option<String>,
    pub(crate) node: String,
}

impl Container {
    fn status(&self) -> Value {
        json!({
            "name": self.name, "image": self.image, "imageID": self.image, "restartCount": self.restarts,
            "started": self.pid.is_some(), "ready": self.ready,
            "state": self.state.status(),
            "lastState": self.last.as_ref().map_or_else(|| json!({}), Exit::status),
        })
    }

    fn has_succeeded(&self) -> bool {
        matches!(&self.state, ContainerState::Ended(ended) if ended.code == 0)
    }
}

impl ContainerState {
    fn status(&self) -> Value {
        match self {
            Self::Waiting(reason, message) => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running(since) => json!({"running": {"startedAt": Time(*since)}}),
            Self::Ended(ended) => ended.status(),
        }
    }
}

impl Exit {
    fn status(&self) -> Value {
        json!({"terminated": {
            "exitCode": self.code,
            "reason": if self.code == 0 { "Completed" } else { "Error" },
            "message": self.message,
            "startedAt": Time(self.began),
            "finishedAt": Time(self.ended),
        }})
    }
}

/// The pod's status. `problem` is why it can't begin; `over` says that nothing of it runs or will run.
pub(crate) fn of(
    pod: &Pod,
    containers: &[Container],
    addresses: &Addresses,
    began: Timestamp,
    problem: Option<&str>,
    over: bool,
) -> Value {
    let (init, main): (Vec<_>, Vec<_>) = containers.iter().partition(|container| container.init);
    let initialized = init.iter().all(|container| container.has_succeeded());
    let phase = if over && initialized && main.iter().all(|container| container.has_succeeded()) {
        "Succeeded"
    } else if over {
        "Failed"
    } else if initialized && main.iter().any(|container| container.pid.is_some() || container.last.is_some())
    {
        "Running"
    } else {
        "Pending"
    };
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let ready = !over && !leaving && initialized && main.iter().all(|container| container.ready);
    let conditions = [("Initialized", initialized), ("ContainersReady", ready), ("Ready", ready)];
    let conditions =
        conditions.map(|(name, holds)| json!({"type": name, "status": if holds { "True" } else { "False" }}));
    // Without this the lists are merged by key, and the address of the pod's earlier life on this node would stay.
    let mut pod_ips = vec![json!({"$patch": "replace"})];
    pod_ips.extend(addresses.pod.as_ref().map(|ip| json!({"ip": ip})));
    let statuses = |containers: &[&Container]| -> Vec<Value> {
        containers.iter().map(|container| container.status()).collect()
    };
    json!({"status": {
        "phase": phase,
        "conditions": conditions,
        "containerStatuses": statuses(&main),
        "initContainerStatuses": statuses(&init),
        "hostIP": addresses.node,
        "podIP": addresses.pod,
        "podIPs": pod_ips,
        "startTime": Time(began),
        "message": problem,
    }})
}
