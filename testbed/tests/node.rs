//! Pods as processes: a real control plane, nodes of ours. This very program is also what some of the pods run, and
//! the runner that is killed.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use lease_testbed::{Cluster, ClusterOptions, Image, Process, in_private_network, wait_for, wait_until};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);
const ROLE: &str = "TESTBED_NODE_ROLE";
/// Where the image has this program.
const PROGRAM: &str = "/usr/local/bin/program";
/// Only who tolerates it runs on the nodes that are lost.
const LOSSY: &str = "lossy";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "serve", port] => return serve(port),
        [_, "get", host, port] => return get(host, port),
        [_, "whoami"] => return tokio::runtime::Runtime::new()?.block_on(whoami()),
        _ => {}
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials(|_, _| Ok(()))).exit();
    }
    in_private_network()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::var(ROLE).is_ok() {
        return runtime.block_on(runner());
    }
    let cluster = Arc::new(runtime.block_on(start(&["node-a", "node-b", "lost-a", "lost-b"]))?);
    runtime.block_on(async {
        for node in ["lost-a", "lost-b"] {
            let taint = json!({"spec": {"taints": [{"key": LOSSY, "effect": "NoSchedule"}]}});
            cluster.access().request("PATCH", &format!("/api/v1/nodes/{node}"), Some(taint)).await?;
        }
        anyhow::Ok(())
    })?;
    let (handle, shared) = (runtime.handle().clone(), cluster.clone());
    let trials = trials(move |number, name| {
        let bed = Bed { cluster: shared.clone(), namespace: format!("case-{number}") };
        handle.block_on(case(name, bed)).map_err(|error| Failed::from(format!("{error:?}")))
    });
    let conclusion = libtest_mimic::run(&arguments, trials);
    let cluster = Arc::into_inner(cluster).context("a case still has the cluster")?;
    runtime.block_on(cluster.stop());
    conclusion.exit()
}

fn trials(run: impl Fn(usize, &'static str) -> Result<(), Failed> + Clone + Send + 'static) -> Vec<Trial> {
    let names = [
        "a_deployment_runs_on_two_nodes_and_becomes_available",
        "a_deleted_pod_gets_sigterm_its_grace_and_then_sigkill",
        "a_crashing_container_is_restarted_with_backoff_and_counted",
        "the_pod_of_a_job_completes",
        "what_a_pod_is_told_arrives_and_its_token_is_accepted",
        "a_user_without_rights_works_in_a_folder_that_a_root_init_container_made",
        "readiness_governs_who_a_service_leads_to",
        "a_container_whose_liveness_probe_fails_is_restarted",
        "a_pod_that_is_stopped_or_cut_off_goes_on_later",
        "a_program_reaches_the_api_server_by_its_in_cluster_configuration",
        "a_sidecar_outlasts_whom_it_serves_and_hooks_are_run",
        "a_claim_that_is_bound_to_a_folder_of_a_node_keeps_what_is_written",
        "a_server_of_the_machine_is_reached_once_it_is_exposed",
        "what_is_not_offered_is_said",
        "the_pods_of_a_lost_node_are_replaced_and_it_can_come_back",
        "pods_survive_a_restart_of_the_api_server",
        "nothing_is_left_of_a_killed_runner",
    ];
    let trial = |(number, name)| {
        let run = run.clone();
        Trial::test(name, move || run(number, name))
    };
    names.into_iter().enumerate().map(trial).collect()
}

async fn case(name: &str, bed: Bed) -> anyhow::Result<()> {
    if name == "nothing_is_left_of_a_killed_runner" {
        return nothing_is_left().await;
    }
    bed.begin().await?;
    match name {
        "a_deployment_runs_on_two_nodes_and_becomes_available" => deployment(&bed).await,
        "a_deleted_pod_gets_sigterm_its_grace_and_then_sigkill" => deletion(&bed).await,
        "a_crashing_container_is_restarted_with_backoff_and_counted" => crash(&bed).await,
        "the_pod_of_a_job_completes" => job(&bed).await,
        "what_a_pod_is_told_arrives_and_its_token_is_accepted" => told(&bed).await,
        "a_user_without_rights_works_in_a_folder_that_a_root_init_container_made" => user(&bed).await,
        "readiness_governs_who_a_service_leads_to" => service(&bed).await,
        "a_container_whose_liveness_probe_fails_is_restarted" => liveness(&bed).await,
        "a_pod_that_is_stopped_or_cut_off_goes_on_later" => faults(&bed).await,
        "a_program_reaches_the_api_server_by_its_in_cluster_configuration" => in_cluster(&bed).await,
        "a_sidecar_outlasts_whom_it_serves_and_hooks_are_run" => sidecar(&bed).await,
        "a_claim_that_is_bound_to_a_folder_of_a_node_keeps_what_is_written" => claim(&bed).await,
        "a_server_of_the_machine_is_reached_once_it_is_exposed" => exposed(&bed).await,
        "what_is_not_offered_is_said" => refused(&bed).await,
        "the_pods_of_a_lost_node_are_replaced_and_it_can_come_back" => lost(&bed).await,
        "pods_survive_a_restart_of_the_api_server" => restart(&bed).await,
        _ => unreachable!("{name}"),
    }
}

async fn start(nodes: &[&str]) -> anyhow::Result<Cluster> {
    let program = Image::new("program").file(PROGRAM, std::env::current_exe()?).entrypoint([PROGRAM]);
    let shell = Image::new("shell").entrypoint(["/bin/sh", "-c"]);
    let options = ClusterOptions::default().image(program).image(shell);
    let options = nodes.iter().fold(options, |options, node| options.node(*node));
    Cluster::start(options).await
}

/// The cluster, and a case's namespace in it.
struct Bed {
    cluster: Arc<Cluster>,
    namespace: String,
}

impl Bed {
    async fn begin(&self) -> anyhow::Result<()> {
        self.cluster.access().create_namespace(&self.namespace).await?;
        wait_until("there is a ServiceAccount", LIMIT, async || {
            self.read("serviceaccounts/default").await.is_ok()
        })
        .await
    }

    fn path(&self, what: &str) -> String {
        let namespace = &self.namespace;
        match what.split('/').next().unwrap_or_default() {
            "deployments" => format!("/apis/apps/v1/namespaces/{namespace}/{what}"),
            "jobs" => format!("/apis/batch/v1/namespaces/{namespace}/{what}"),
            "endpointslices" => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/{what}"),
            _ => format!("/api/v1/namespaces/{namespace}/{what}"),
        }
    }

    async fn read(&self, what: &str) -> anyhow::Result<Value> {
        self.cluster.access().request("GET", &self.path(what), None).await
    }

    async fn make(&self, what: &str, body: Value) -> anyhow::Result<Value> {
        self.cluster.access().request("POST", &self.path(what), Some(body)).await
    }

    async fn delete(&self, what: &str) -> anyhow::Result<()> {
        self.cluster.access().request("DELETE", &self.path(what), None).await.map(drop)
    }

    /// A pod that runs a shell script.
    async fn shell(&self, name: &str, script: &str, more: Value) -> anyhow::Result<()> {
        let mut spec = json!({
            "containers": [{"name": "main", "image": "shell", "args": [script]}],
            "terminationGracePeriodSeconds": 1,
        });
        merge(&mut spec, more);
        self.make("pods", json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}))
            .await
            .map(drop)
    }

    async fn when(&self, what: &str, why: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let seen = wait_for(why, LIMIT, async || {
            let seen = self.read(what).await.map_err(|error| format!("{error:#}"))?;
            if holds(&seen) { Ok(seen) } else { Err(seen["status"].to_string()) }
        });
        seen.await
    }

    async fn gone(&self, what: &str) -> anyhow::Result<()> {
        wait_until(&format!("{what} has gone"), LIMIT, async || self.read(what).await.is_err()).await
    }

    async fn logged(&self, pod: &str, text: &str) -> anyhow::Result<String> {
        wait_for(&format!("{pod} prints {text:?}"), LIMIT, async || {
            let log = self.log(pod);
            if log.contains(text) { Ok(log) } else { Err(log) }
        })
        .await
    }

    fn log(&self, pod: &str) -> String {
        self.cluster.logs(&self.namespace, pod)
    }
}

/// As a merge patch does; the items of lists by their places.
fn merge(to: &mut Value, from: Value) {
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

fn condition(object: &Value, name: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|known| known["type"] == name && known["status"] == "True")
}

const OBEDIENT: &str = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";

async fn deployment(bed: &Bed) -> anyhow::Result<()> {
    let labels = json!({"app": "web"});
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels}, "nodeTaintsPolicy": "Honor",
    }]);
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "topologySpreadConstraints": spread,
            "containers": [{"name": "main", "image": "shell:any", "args": [OBEDIENT]}],
        }},
    }});
    bed.make("deployments", deployment).await?;
    bed.when("deployments/web", "the Deployment is available", |seen| {
        seen["status"]["availableReplicas"] == 2 && condition(seen, "Available")
    })
    .await?;
    let pods = bed.read("pods").await?;
    let part = |pointer: &str| {
        let mut parts: Vec<_> =
            pods["items"].as_array().into_iter().flatten().map(|pod| pod.pointer(pointer)).collect();
        parts.sort_by_key(|part| part.map(Value::to_string));
        parts.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>()
    };
    assert_eq!(part("/spec/nodeName"), ["node-a", "node-b"]);
    let ips = part("/status/podIP");
    assert!(ips.len() == 2 && ips.iter().all(|ip| ip.starts_with("10.244.")), "{ips:?}");
    Ok(())
}

async fn deletion(bed: &Bed) -> anyhow::Result<()> {
    let deaf = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done";
    bed.shell("deaf", deaf, json!({"terminationGracePeriodSeconds": 2})).await?;
    bed.shell("obedient", OBEDIENT, json!({"terminationGracePeriodSeconds": 300})).await?;
    for pod in ["deaf", "obedient"] {
        bed.logged(pod, "ready").await?;
    }
    let began = Instant::now();
    bed.delete("pods/obedient").await?;
    bed.delete("pods/deaf").await?;
    bed.gone("pods/obedient").await?;
    assert!(bed.log("obedient").contains("bye"));
    bed.gone("pods/deaf").await?;
    assert!(began.elapsed() >= Duration::from_secs(2), "it was killed after {:?}", began.elapsed());
    assert!(bed.log("deaf").contains("asked"));
    Ok(())
}

async fn crash(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("crashing", "echo run; exit 3", json!({})).await?;
    let pod = bed.when("pods/crashing", "it was restarted twice", |seen| {
        let status = &seen["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(2)
            && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let pod = pod.await?;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    assert!(!condition(&pod, "Ready"));
    assert!(bed.log("crashing").matches("run").count() >= 3);
    Ok(())
}

async fn job(bed: &Bed) -> anyhow::Result<()> {
    let script =
        "[ -e /shared/tried ] && exit 0; touch /shared/tried; echo not yet >/dev/termination-log; exit 1";
    let job = json!({"metadata": {"name": "once"}, "spec": {"backoffLimit": 5, "template": {"spec": {
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "containers": [{
            "name": "main", "image": "shell", "args": [script],
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }],
    }}}});
    bed.make("jobs", job).await?;
    bed.when("jobs/once", "the Job is complete", |seen| condition(seen, "Complete")).await?;
    let pods = bed.read("pods").await?;
    let status = &pods["items"][0]["status"];
    assert_eq!(status["phase"], "Succeeded");
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["restartCount"], &container["state"]["terminated"]["exitCode"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(container["lastState"]["terminated"]["message"], "not yet\n");
    Ok(())
}

async fn told(bed: &Bed) -> anyhow::Result<()> {
    bed.make("secrets", json!({"metadata": {"name": "secret"}, "stringData": {"url": "postgres://x"}}))
        .await?;
    bed.make("configmaps", json!({"metadata": {"name": "map"}, "data": {"a.toml": "a = 1", "B": "two"}}))
        .await?;
    let script = "
        echo \"$URL $B $NAME/$NS@$IP on $NODE as $ACCOUNT $0 $1\"; hostname 2>/dev/null || cat /proc/sys/kernel/hostname
        cat /secret/url /map/renamed /told/labels; stat -c %a /secret/url; stat -c %g /map/renamed
        cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; head -1 ca.crt; echo; echo token $(cat token)
        echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; ls /proc | grep -c '^[0-9]'; echo done; sleep 1000";
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let more = json!({
        "securityContext": {"fsGroup": 4321},
        "volumes": [
            {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}},
            {"name": "map", "configMap": {"name": "map", "items": [{"key": "a.toml", "path": "renamed"}]}},
            {"name": "told", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            ]}},
        ],
        "containers": [{
            "args": [script, "zero-$(NAME)", "$$(NAME)"],
            "envFrom": [{"configMapRef": {"name": "map"}}],
            "env": [
                {"name": "URL", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "url"}}},
                {"name": "NAME", "valueFrom": field("metadata.name")},
                {"name": "NS", "valueFrom": field("metadata.namespace")},
                {"name": "IP", "valueFrom": field("status.podIP")},
                {"name": "NODE", "valueFrom": field("spec.nodeName")},
                {"name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName")},
            ],
            "volumeMounts": [
                {"name": "secret", "mountPath": "/secret"}, {"name": "map", "mountPath": "/map"},
                {"name": "told", "mountPath": "/told"},
            ],
        }],
    });
    bed.shell("told", script, more).await?;
    let log = bed.logged("told", "done\n").await?;
    let pod = bed.read("pods/told").await?;
    let (ip, node) = (&pod["status"]["podIP"], &pod["spec"]["nodeName"]);
    let (ip, node, namespace) =
        (ip.as_str().context("no IP")?, node.as_str().context("no node")?, &bed.namespace);
    for expected in [
        &format!("postgres://x two told/{namespace}@{ip} on {node} as default zero-told $(NAME)"),
        "\ntold\n",
        "postgres://xa = 1app=\"told\"",
        "440\n4321\n",
        &format!("{namespace}-----BEGIN CERTIFICATE-----"),
        "10.0.0.1:443",
    ] {
        ensure!(log.contains(expected), "{expected:?} is missing in:\n{log}");
    }
    let token = log.lines().find_map(|line| line.strip_prefix("token ")).context("no token")?;
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = bed.cluster.access().request("POST", reviews, Some(review)).await?;
    assert_eq!(review["status"]["user"]["username"], format!("system:serviceaccount:{namespace}:default"));
    assert_eq!(review["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"][0], "told");
    Ok(())
}

async fn user(bed: &Bed) -> anyhow::Result<()> {
    let script = "
        id; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; touch /nowhere 2>&1; touch /run/app/made && echo made
        touch /tmp/scratch && stat -c %U:%g /tmp/scratch; echo done; sleep 1000";
    let mount = json!([{"name": "run", "mountPath": "/run/app"}, {"name": "tmp", "mountPath": "/tmp"}]);
    let more = json!({
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 777},
        "volumes": [
            {"name": "run", "hostPath": {"path": "/var/run/app", "type": "DirectoryOrCreate"}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "initContainers": [{
            "name": "owner", "image": "shell",
            "args": ["chown 65532:65532 /run/app && ! chroot / true && grep CapEff /proc/self/status"],
            "securityContext": {
                "runAsNonRoot": false, "runAsUser": 0, "runAsGroup": 0,
                "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
            },
            "volumeMounts": mount,
        }],
        "containers": [{
            "volumeMounts": mount,
            "securityContext": {
                "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        }],
    });
    bed.shell("user", script, more).await?;
    let log = bed.logged("user", "done\n").await?;
    for expected in [
        "CapEff:\t0000000000000001",
        "uid=65532(nonroot) gid=65532(nonroot) groups=65532(nonroot),777",
        "CapEff:\t0000000000000000\nNoNewPrivs:\t1",
        "Read-only file system",
        "made\nnonroot:777\n",
    ] {
        ensure!(log.contains(expected), "{expected:?} is missing in:\n{log}");
    }
    let pod = bed.read("pods/user").await?;
    let folder =
        bed.cluster.host_path(pod["spec"]["nodeName"].as_str().context("no node")?, "/var/run/app")?;
    assert_eq!(fs::metadata(folder.join("made"))?.uid(), 65532);

    bed.shell("root", "true", json!({"securityContext": {"runAsNonRoot": true}})).await?;
    bed.when("pods/root", "it is refused", |seen| {
        let waiting = &seen["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError"
            && waiting["message"].to_string().contains("run as root")
    })
    .await?;
    Ok(())
}

/// Two servers; one's readiness hangs on a file of its node's.
async fn service(bed: &Bed) -> anyhow::Result<()> {
    for name in ["one", "two"] {
        let more = json!({
            "nodeName": if name == "one" { "node-a" } else { "node-b" },
            "volumes": [{"name": "run", "hostPath": {"path": format!("/var/run/{}", bed.namespace)}}],
            "containers": [{
                "ports": [{"name": "http", "containerPort": 8080}],
                "volumeMounts": [{"name": "run", "mountPath": "/run/app"}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
            }],
        });
        bed.shell(name, &format!("exec {PROGRAM} serve 8080"), with_program(more)).await?;
    }
    let labels = json!({"metadata": {"labels": {"served": "yes"}}});
    for name in ["one", "two"] {
        bed.cluster
            .access()
            .request("PATCH", &bed.path(&format!("pods/{name}")), Some(labels.clone()))
            .await?;
    }
    let service = json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"served": "yes"}, "ports": [{"port": 80, "targetPort": "http"}],
    }});
    let service = bed.make("services", service).await?;
    let address = service["spec"]["clusterIP"].as_str().context("no address")?;
    let long = format!("web.{}.svc.cluster.local", bed.namespace);
    let script =
        format!("while :; do for to in web {long} {address}; do {PROGRAM} get $to 80; done; sleep 0.1; done");
    bed.shell("client", &script, with_program(json!({"containers": [{}]}))).await?;
    bed.logged("client", "web: by one").await?;
    bed.logged("client", "web: by two").await?;
    bed.logged("client", &format!("{long}: by")).await?;
    bed.logged("client", &format!("{address}: by")).await?;

    let unready = bed.cluster.host_path("node-b", &format!("/var/run/{}", bed.namespace))?.join("unready");
    fs::write(&unready, "")?;
    let ready = |slices: &Value, ready: bool| {
        let endpoints = slices["items"][0]["endpoints"].as_array().into_iter().flatten();
        endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == ready).count()
    };
    let slices = "endpointslices";
    bed.when(slices, "only one is ready", |seen| ready(seen, true) == 1 && ready(seen, false) == 1).await?;
    // The new routes are known once a round has passed in which only one answered.
    wait_until("all goes to one", LIMIT, async || {
        let log = bed.log("client");
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].iter().all(|line| line.ends_with("by one"))
    })
    .await?;
    fs::remove_file(&unready)?;
    bed.when(slices, "both are ready", |seen| ready(seen, true) == 2).await?;
    Ok(())
}

fn with_program(mut more: Value) -> Value {
    more["containers"][0]["image"] = json!("program");
    more["containers"][0]["command"] = json!(["/bin/sh", "-c"]);
    more
}

async fn liveness(bed: &Bed) -> anyhow::Result<()> {
    // The shell's trap waits for its `sleep`.
    let script = "trap 'echo asked; exit 0' TERM; touch /tmp/fine; echo began; sleep 1; rm /tmp/fine; while :; do sleep 0.05; done";
    let probe =
        json!({"exec": {"command": ["test", "-e", "/tmp/fine"]}, "periodSeconds": 1, "failureThreshold": 1});
    let started = json!({"exec": {"command": ["test", "-e", "/tmp/fine"]}});
    let more = json!({
        "terminationGracePeriodSeconds": 60,
        "containers": [{"livenessProbe": probe, "startupProbe": started}],
    });
    bed.shell("sick", script, more).await?;
    bed.when("pods/sick", "it was restarted", |seen| {
        let status = &seen["status"]["containerStatuses"][0];
        status["restartCount"].as_i64() >= Some(1) && status["state"]["running"].is_object()
    })
    .await?;
    wait_until("it was asked to end, and began again", LIMIT, async || {
        let log = bed.log("sick");
        log.contains("asked") && log.matches("began").count() >= 2
    })
    .await
}

async fn faults(bed: &Bed) -> anyhow::Result<()> {
    bed.shell(
        "beat",
        "while :; do date +%s%N >/tmp/beat; cp /tmp/beat /run/app/; sleep 0.02; done",
        json!({
            "nodeName": "node-a",
            "volumes": [{"name": "run", "hostPath": {"path": format!("/var/run/{}", bed.namespace)}}],
            "containers": [{"volumeMounts": [{"name": "run", "mountPath": "/run/app"}]}],
        }),
    )
    .await?;
    let file = bed.cluster.host_path("node-a", &format!("/var/run/{}", bed.namespace))?.join("beat");
    let (cluster, namespace) = (&bed.cluster, &bed.namespace);
    let goes_on = async |why: &str| {
        let before = fs::read_to_string(&file).unwrap_or_default();
        wait_until(why, LIMIT, async || fs::read_to_string(&file).is_ok_and(|now| now > before)).await
    };
    bed.when("pods/beat", "it is ready", |seen| condition(seen, "Ready")).await?;
    goes_on("it runs").await?;
    cluster.pause_pod(namespace, "beat").await?;
    let before = fs::read_to_string(&file)?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(before, fs::read_to_string(&file)?);
    cluster.resume_pod(namespace, "beat")?;
    goes_on("it runs again").await?;
    assert!(!cluster.pod_processes(namespace, "beat")?.is_empty());

    let more = with_program(json!({"containers": [{}]}));
    bed.shell("server", &format!("exec {PROGRAM} serve 8080"), more).await?;
    let pod = bed.when("pods/server", "it runs", |seen| condition(seen, "Ready")).await?;
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().context("no address")?);
    let connects = async || {
        let connected = tokio::net::TcpStream::connect(&address);
        tokio::time::timeout(Duration::from_millis(500), connected)
            .await
            .is_ok_and(|connected| connected.is_ok())
    };
    wait_until("it can be reached", LIMIT, connects).await?;
    cluster.cut_pod(namespace, "server").await?;
    assert!(!connects().await);
    cluster.mend_pod(namespace, "server").await?;
    wait_until("it can be reached again", LIMIT, connects).await
}

async fn in_cluster(bed: &Bed) -> anyhow::Result<()> {
    let more = json!({"restartPolicy": "Never", "containers": [{"image": "program", "args": ["whoami"]}]});
    bed.shell("asker", "", more).await?;
    bed.when("pods/asker", "it has ended", |seen| seen["status"]["phase"] == "Succeeded").await?;
    assert_eq!(bed.log("asker"), format!("system:serviceaccount:{}:default\n", bed.namespace));
    Ok(())
}

async fn sidecar(bed: &Bed) -> anyhow::Result<()> {
    let helper = "trap 'echo helped until the end >>/shared/log; exit 0' TERM
        touch /shared/up; while :; do sleep 0.05; done";
    let script = "ls /shared/up; trap 'cat /shared/hook; sleep 1; echo main ends >>/shared/log; exit 0' TERM
        echo ready; while :; do sleep 0.05; done";
    let mount = json!([{"name": "shared", "mountPath": "/shared"}]);
    let path = format!("/var/run/{}", bed.namespace);
    let exec = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
    let more = json!({
        "nodeName": "node-a",
        "terminationGracePeriodSeconds": 60,
        "volumes": [{"name": "shared", "hostPath": {"path": path}}],
        "initContainers": [{
            "name": "helper", "image": "shell", "args": [helper], "restartPolicy": "Always", "volumeMounts": mount,
            "startupProbe": exec("test -e /shared/up"),
        }],
        "containers": [{
            "volumeMounts": mount,
            "lifecycle": {"preStop": exec("echo hooked >/shared/hook"), "postStart": exec("touch /shared/began")},
        }],
    });
    bed.shell("served", script, more).await?;
    bed.when("pods/served", "it is ready", |seen| condition(seen, "Ready")).await?;
    bed.logged("served", "ready").await?;
    let folder = bed.cluster.host_path("node-a", &path)?;
    assert!(folder.join("began").exists());
    bed.delete("pods/served").await?;
    bed.gone("pods/served").await?;
    assert_eq!(bed.cluster.container_logs(&bed.namespace, "served", "main"), "/shared/up\nready\nhooked\n");
    assert_eq!(fs::read_to_string(folder.join("log"))?, "main ends\nhelped until the end\n");
    Ok(())
}

async fn claim(bed: &Bed) -> anyhow::Result<()> {
    let (path, modes, size) =
        (format!("/data/{}", bed.namespace), json!(["ReadWriteOnce"]), json!({"storage": "1Gi"}));
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "kept"}, "spec": {
        "capacity": size, "accessModes": modes, "hostPath": {"path": path}, "storageClassName": "",
        "claimRef": {"namespace": bed.namespace, "name": "kept"},
    }});
    bed.cluster.access().request("POST", "/api/v1/persistentvolumes", Some(volume)).await?;
    let claim = json!({"metadata": {"name": "kept"}, "spec": {
        "accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": "kept",
    }});
    bed.make("persistentvolumeclaims", claim).await?;
    for round in ["once", "twice"] {
        let more = json!({
            "restartPolicy": "Never",
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-b"]}]},
            ]}}},
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
            "volumes": [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}],
            "containers": [{"volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}],
        });
        bed.shell(round, "echo written >>/kept/file && cat /kept/file", more).await?;
        bed.when(&format!("pods/{round}"), "it has ended", |seen| seen["status"]["phase"] == "Succeeded")
            .await?;
    }
    assert_eq!(bed.log("twice"), "written\nwritten\n");
    Ok(())
}

async fn exposed(bed: &Bed) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let there = bed.cluster.expose(listener.local_addr()?).await?;
    let (host, port) = (there.ip().to_string(), there.port().to_string());
    let more = json!({"containers": [{"image": "program", "args": ["get", host, port]}]});
    bed.shell("asker", "", more).await?;
    let (mut stream, _) = tokio::time::timeout(LIMIT, listener.accept()).await.context("nobody came")??;
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello\n").await?;
    drop(stream);
    bed.logged("asker", ": hello").await.map(drop)
}

async fn refused(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("image", "true", json!({"containers": [{"image": "elsewhere"}]})).await?;
    bed.when("pods/image", "it is refused", |seen| {
        let waiting = &seen["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "ErrImagePull" && waiting["message"].to_string().contains("no image elsewhere")
    })
    .await?;
    let more = json!({"containers": [{"readinessProbe": {"grpc": {"port": 1}}}]});
    bed.shell("grpc", "true", more).await?;
    bed.when("pods/grpc", "it is refused", |seen| {
        seen["status"]["message"].to_string().contains("grpc probes are not offered")
    })
    .await?;
    wait_until("there is an event", LIMIT, async || {
        let events = bed.read("events").await.unwrap_or_default();
        events.to_string().contains("grpc probes are not offered")
    })
    .await?;
    bed.delete("pods/grpc").await?;
    bed.gone("pods/grpc").await
}

async fn lost(bed: &Bed) -> anyhow::Result<()> {
    let labels = json!({"app": "kept"});
    let tolerate = |key: &str, effect: &str, seconds: Option<u8>| json!({"key": key, "operator": "Exists", "effect": effect, "tolerationSeconds": seconds});
    let deployment = json!({"metadata": {"name": "kept"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "tolerations": [
                tolerate(LOSSY, "NoSchedule", None),
                tolerate("node.kubernetes.io/not-ready", "NoExecute", Some(1)),
                tolerate("node.kubernetes.io/unreachable", "NoExecute", Some(1)),
            ],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["lost-a", "lost-b"]},
                ]},
            ]}}},
            "containers": [{"name": "main", "image": "shell", "args": [OBEDIENT]}],
        }},
    }});
    bed.make("deployments", deployment).await?;
    let available = |seen: &Value| seen["status"]["availableReplicas"] == 1;
    bed.when("deployments/kept", "it is available", available).await?;
    let pods = bed.read("pods").await?;
    let (pod, node) = (&pods["items"][0]["metadata"]["name"], &pods["items"][0]["spec"]["nodeName"]);
    let (pod, node) = (pod.as_str().context("no pod")?, node.as_str().context("no node")?);
    let pids = bed.cluster.pod_processes(&bed.namespace, pod)?;
    bed.cluster.lose_node(node).await?;
    let there = |pid: &u32| Path::new(&format!("/proc/{pid}/exe")).exists();
    wait_until("its processes have gone", LIMIT, async || !pids.iter().any(there)).await?;
    let seen = bed.read(&format!("pods/{pod}")).await?;
    assert!(condition(&seen, "Ready"), "the API server isn't told");
    wait_until("the node isn't ready any more", LIMIT, async || {
        let path = format!("/api/v1/nodes/{node}");
        let seen = bed.cluster.access().request("GET", &path, None).await;
        seen.is_ok_and(|seen| !condition(&seen, "Ready"))
    })
    .await?;
    let moved = bed.when("pods", "there is another pod on the other node", |seen| {
        let pods = seen["items"].as_array().into_iter().flatten();
        pods.into_iter().any(|pod| condition(pod, "Ready") && pod["spec"]["nodeName"] != node)
    });
    moved.await?;
    bed.read(&format!("pods/{pod}")).await.context("it is kept while its node says nothing")?;
    bed.cluster.restore_node(node)?;
    bed.gone(&format!("pods/{pod}")).await
}

async fn restart(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("steady", OBEDIENT, json!({"terminationGracePeriodSeconds": 30})).await?;
    bed.when("pods/steady", "it is ready", |seen| condition(seen, "Ready")).await?;
    bed.cluster.control_plane().crash().await?;
    bed.cluster.control_plane().start_again().await?;
    bed.delete("pods/steady").await?;
    bed.gone("pods/steady").await?;
    assert_eq!(bed.log("steady"), "ready\nbye\n");
    Ok(())
}

/// Starts a cluster, after another, with a pod, prints its processes, and waits to be killed.
async fn runner() -> anyhow::Result<()> {
    start(&["node-a"]).await?.stop().await;
    let cluster = start(&["node-a"]).await?;
    let bed = Bed { cluster: Arc::new(cluster), namespace: "app".into() };
    bed.begin().await?;
    bed.shell("deaf", "trap '' TERM; setsid sleep 1000 & while :; do sleep 0.1; done", json!({})).await?;
    bed.when("pods/deaf", "it runs", |seen| condition(seen, "Ready")).await?;
    for pid in bed.cluster.pod_processes("app", "deaf")? {
        println!("pid {pid}");
    }
    println!("network {}", fs::read_link("/proc/self/ns/net")?.display());
    println!("ready");
    std::future::pending().await
}

async fn nothing_is_left() -> anyhow::Result<()> {
    // It makes a network for itself: one cluster a network.
    let runner = Process::command(std::env::current_exe()?)?
        .env(ROLE, "runner")
        .env_remove("LEASE_TESTBED_OUTSIDE")
        .spawn()?;
    runner.wait_for_line("ready", LIMIT).await?;
    let lines = runner.lines();
    let pids: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("pid ")).collect();
    let network = lines.iter().find_map(|line| line.strip_prefix("network ")).context("no network")?;
    ensure!(!pids.is_empty(), "the runner printed too little: {lines:?}");
    let left = || {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter(|entry| {
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|of| of == Path::new(network))
        })
        .count()
    };
    assert!(left() > 0);
    runner.kill().await?;
    let there = |pid: &&str| Path::new(&format!("/proc/{pid}/exe")).exists();
    wait_until("its pods' processes have gone", LIMIT, async || !pids.iter().any(there)).await?;
    wait_until("nothing is in its network", LIMIT, async || left() == 0).await
}

/// Says who it is to whoever asks by HTTP; 503 while there is a file `unready`.
fn serve(port: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let status = if Path::new("/run/app/unready").exists() { "503 Unavailable" } else { "200 OK" };
        let name = std::env::var("HOSTNAME")?;
        let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n\r\nby {name}");
    }
    Ok(())
}

async fn whoami() -> anyhow::Result<()> {
    let client = kube::Client::try_default().await?;
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let request = request.header("content-type", "application/json").body(serde_json::to_vec(&asked)?)?;
    let answer: Value = client.request(request).await?;
    println!("{}", answer["status"]["userInfo"]["username"].as_str().context("nobody")?);
    Ok(())
}

fn get(host: &str, port: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(format!("{host}:{port}"))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("{host}: {}", answer.lines().last().unwrap_or_default());
    Ok(())
}
