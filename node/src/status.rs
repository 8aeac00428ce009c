//! What a pod's node says of it.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use rustix::process::Pid;
use serde_json::{Value, json};

/// One container, as far as it has come.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) init: bool,
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    pub(super) started: bool,
    pub(super) ready: bool,
    pub(super) pid: Option<Pid>,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Waiting(&'static str, String),
    Running(Timestamp),
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) message: String,
    pub(super) began: Timestamp,
    pub(super) ended: Timestamp,
}

/// When conditions last changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions(Vec<(&'static str, bool, Timestamp)>);

impl Container {
    fn status(&self) -> Value {
        json!({
            "name": self.name, "image": self.image, "imageID": self.image, "restartCount": self.restarts,
            "started": self.started, "ready": self.ready,
            "containerID": format!("testbed://{}", self.name),
            "state": self.state.status(),
            "lastState": self.last.as_ref().map_or_else(|| json!({}), Ended::status),
        })
    }
}

impl State {
    fn status(&self) -> Value {
        match self {
            Self::Waiting(reason, message) => json!({"waiting": {"reason": reason, "message": message}}),
            Self::Running(since) => json!({"running": {"startedAt": Time(*since)}}),
            Self::Ended(ended) => ended.status(),
        }
    }
}

impl Ended {
    fn status(&self) -> Value {
        json!({"terminated": {
            "exitCode": self.code,
            "signal": self.signal,
            "reason": if self.code == 0 { "Completed" } else { "Error" },
            "message": self.message,
            "startedAt": Time(self.began),
            "finishedAt": Time(self.ended),
        }})
    }
}

/// The pod's status; `problem` is why it can't begin; `over` when nothing of it runs or will run.
pub(super) fn of(
    pod: &Pod,
    containers: &[Container],
    conditions: &mut Conditions,
    ips: (Option<String>, &str),
    began: Timestamp,
    problem: Option<&str>,
    over: bool,
) -> Value {
    let (init, main): (Vec<_>, Vec<_>) = containers.iter().partition(|container| container.init);
    let initialized = init.iter().all(|container| match &container.state {
        State::Ended(ended) => ended.code == 0,
        _ => container.started && container.ready,
    });
    let succeeded =
        |container: &&&Container| matches!(&container.state, State::Ended(ended) if ended.code == 0);
    let phase = if over && initialized && main.iter().filter(succeeded).count() == main.len() {
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
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.clone()).unwrap_or_default();
    let open = gates.iter().all(|gate| {
        let others = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        others.into_iter().any(|other| other.type_ == gate.condition_type && other.status == "True")
    });
    let told: Vec<Value> = [
        ("PodReadyToStartContainers", ips.0.is_some()),
        ("Initialized", initialized),
        ("ContainersReady", ready),
        ("Ready", ready && open),
    ]
    .into_iter()
    .map(|(name, holds)| {
        let since = conditions.since(name, holds);
        let reason = match (holds, over) {
            (true, _) => "",
            (false, true) if phase == "Succeeded" => "PodCompleted",
            (false, true) => "PodFailed",
            (false, false) => "ContainersNotReady",
        };
        let status = if holds { "True" } else { "False" };
        json!({"type": name, "status": status, "reason": reason, "lastTransitionTime": Time(since)})
    })
    .collect();
    // The address of an earlier life of the pod on this node goes: the list would be merged by key.
    let mut pod_ips = vec![json!({"$patch": "replace"})];
    pod_ips.extend(ips.0.as_ref().map(|ip| json!({"ip": ip})));
    json!({"status": {
        "phase": phase,
        "conditions": told,
        "containerStatuses": main.iter().map(|container| container.status()).collect::<Vec<_>>(),
        "initContainerStatuses": init.iter().map(|container| container.status()).collect::<Vec<_>>(),
        "hostIP": ips.1,
        "podIP": ips.0,
        "podIPs": pod_ips,
        "startTime": Time(began),
        "message": problem,
        "qosClass": pod.status.as_ref().and_then(|status| status.qos_class.clone()),
    }})
}

impl Conditions {
    fn since(&mut self, name: &'static str, holds: bool) -> Timestamp {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, held, since)) => {
                if *held != holds {
                    (*held, *since) = (holds, Timestamp::now());
                }
                *since
            }
            None => {
                let now = Timestamp::now();
                self.0.push((name, holds, now));
                now
            }
        }
    }
}
