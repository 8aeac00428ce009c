//! A cluster that all cases share, and a namespace for each.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lease_node::{Cluster, ClusterOptions, Image};
use lease_testbed::{wait_for, wait_until};
use serde_json::{Value, json};

pub(crate) const LIMIT: Duration = Duration::from_secs(300);
/// The path of this program in the image.
pub(crate) const PROGRAM: &str = "/usr/local/bin/program";
/// The taint of the nodes that are lost: only pods that tolerate it run there.
pub(crate) const LOSSY: &str = "lossy";
pub(crate) const OBEDIENT: &str = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";

pub(crate) async fn start(nodes: &[&str]) -> anyhow::Result<Cluster> {
    let program = Image::new("program").file(PROGRAM, std::env::current_exe()?).entrypoint([PROGRAM]);
    let shell = Image::new("shell").entrypoint(["/bin/sh", "-c"]);
    let options = ClusterOptions::default().image(program).image(shell);
    let options = nodes.iter().fold(options, |options, node| options.node(*node));
    Cluster::start(options).await
}

/// The cluster, and a case's namespace in it.
pub(crate) struct Bed {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) namespace: String,
}

impl Bed {
    pub(crate) async fn begin(&self) -> anyhow::Result<()> {
        self.cluster.access().create_namespace(&self.namespace).await?;
        wait_until("there is a ServiceAccount", LIMIT, async || {
            self.read("serviceaccounts/default").await.is_ok()
        })
        .await
    }

    pub(crate) fn path(&self, what: &str) -> String {
        let namespace = &self.namespace;
        match what.split('/').next().unwrap_or_default() {
            "deployments" => format!("/apis/apps/v1/namespaces/{namespace}/{what}"),
            "jobs" => format!("/apis/batch/v1/namespaces/{namespace}/{what}"),
            "endpointslices" => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/{what}"),
            _ => format!("/api/v1/namespaces/{namespace}/{what}"),
        }
    }

    pub(crate) async fn read(&self, what: &str) -> anyhow::Result<Value> {
        self.cluster.access().request("GET", &self.path(what), None).await
    }

    pub(crate) async fn make(&self, what: &str, body: Value) -> anyhow::Result<Value> {
        self.cluster.access().request("POST", &self.path(what), Some(body)).await
    }

    pub(crate) async fn delete(&self, what: &str) -> anyhow::Result<()> {
        self.cluster.access().request("DELETE", &self.path(what), None).await.map(drop)
    }

    /// A pod that runs a shell script.
    pub(crate) async fn shell(&self, name: &str, script: &str, more: Value) -> anyhow::Result<()> {
        let mut spec = json!({
            "containers": [{"name": "main", "image": "shell", "args": [script]}],
            "terminationGracePeriodSeconds": 1,
        });
        merge(&mut spec, more);
        self.make("pods", json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))
            .await
            .map(drop)
    }

    pub(crate) async fn when(
        &self,
        what: &str,
        why: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let seen = wait_for(why, LIMIT, async || {
            let seen = self.read(what).await.map_err(|error| format!("{error:#}"))?;
            if holds(&seen) { Ok(seen) } else { Err(seen["status"].to_string()) }
        });
        seen.await
    }

    pub(crate) async fn gone(&self, what: &str) -> anyhow::Result<()> {
        wait_until(&format!("{what} has gone"), LIMIT, async || self.read(what).await.is_err()).await
    }

    pub(crate) async fn logged(&self, pod: &str, text: &str) -> anyhow::Result<String> {
        wait_for(&format!("{pod} prints {text:?}"), LIMIT, async || {
            let log = self.log(pod);
            if log.contains(text) { Ok(log) } else { Err(log) }
        })
        .await
    }

    pub(crate) fn log(&self, pod: &str) -> String {
        self.cluster.logs(&self.namespace, pod)
    }
}

/// Merges as a merge patch does, and the items of lists by their places.
pub(crate) fn merge(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (key, value) in from {
                merge(to.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(to), Value::Array(from)) if to.len() == from.len() => {
            to.iter_mut().zip(from).for_each(|(to, from)| merge(to, from));
        }
        (to, from) => *to = from,
    }
}

pub(crate) fn condition(object: &Value, name: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|known| known["type"] == name && known["status"] == "True")
}

pub(crate) fn with_program(mut more: Value) -> Value {
    more["containers"][0]["image"] = json!("program");
    more["containers"][0]["command"] = json!(["/bin/sh", "-c"]);
    more
}

/// The processes of this machine whose command line contains `text`.
pub(crate) fn processes(text: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let command = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.filter(|pid| String::from_utf8_lossy(&command(pid)).contains(text)).collect()
}
