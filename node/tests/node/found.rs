//! The surroundings of a pod: settings, a token, folders, servers; and the refusal of what isn't offered.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, ensure};
use lease_testbed::wait_until;
use serde_json::{Value, json};

use crate::bed::{Bed, LIMIT, PROGRAM, with_program};

pub(crate) async fn told(bed: &Bed) -> anyhow::Result<()> {
    bed.make("secrets", json!({"metadata": {"name": "secret"}, "stringData": {"url": "postgres://x"}}))
        .await?;
    bed.make("configmaps", json!({"metadata": {"name": "map"}, "data": {"a.toml": "a = 1", "B": "two"}}))
        .await?;
    let script = "
        echo \"$PLAIN $NAME/$NS on $NODE $0 $1\"; hostname 2>/dev/null || cat /proc/sys/kernel/hostname
        cat /secret/url /map/renamed; stat -c %a /secret/url; stat -c %g /map/renamed
        cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; head -1 ca.crt; echo; echo token $(cat token)
        echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; ls /proc | grep -c '^[0-9]'; echo done; sleep 1000";
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let more = json!({
        "securityContext": {"fsGroup": 4321},
        "volumes": [
            {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}},
            {"name": "map", "projected": {"sources": [
                {"configMap": {"name": "map", "items": [{"key": "a.toml", "path": "renamed"}]}},
            ]}},
        ],
        "containers": [{
            "args": [script, "zero", "one"],
            "env": [
                {"name": "PLAIN", "value": "a b"},
                {"name": "NAME", "valueFrom": field("metadata.name")},
                {"name": "NS", "valueFrom": field("metadata.namespace")},
                {"name": "NODE", "valueFrom": field("spec.nodeName")},
            ],
            "volumeMounts": [
                {"name": "secret", "mountPath": "/secret"}, {"name": "map", "mountPath": "/map"},
            ],
        }],
    });
    bed.shell("told", script, more).await?;
    let log = bed.logged("told", "done\n").await?;
    let pod = bed.read("pods/told").await?;
    let (node, namespace) = (pod["spec"]["nodeName"].as_str().context("no node")?, &bed.namespace);
    for expected in [
        &format!("a b told/{namespace} on {node} zero one"),
        "\ntold\n",
        "postgres://xa = 1440\n4321\n",
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

pub(crate) async fn user(bed: &Bed) -> anyhow::Result<()> {
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
    let asked = [
        "sh",
        "-c",
        "id; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; touch /x; echo $HOSTNAME; exit 7",
    ];
    let executed = bed.cluster.exec(&bed.namespace, "user", &asked, LIMIT).await?;
    let (code, said) = (executed.code, executed.lines.join("\n"));
    for expected in [
        "uid=65532(nonroot) gid=65532(nonroot) groups=65532(nonroot),777",
        "CapEff:\t0000000000000000\nNoNewPrivs:\t1",
        "Read-only",
        "\nuser",
    ] {
        ensure!(
            code == 7 && said.contains(expected),
            "{expected:?} is missing in what exec said, with code {code}:\n{said}"
        );
    }
    let nobody = bed.cluster.exec(&bed.namespace, "nobody", &asked, LIMIT).await;
    assert!(nobody.is_err_and(|error| error.to_string().contains("nobody")));

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

/// Two servers; the readiness of one depends on a file of its node.
pub(crate) async fn service(bed: &Bed) -> anyhow::Result<()> {
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

pub(crate) async fn in_cluster(bed: &Bed) -> anyhow::Result<()> {
    let more = json!({"restartPolicy": "Never", "containers": [{"image": "program", "args": ["whoami"]}]});
    bed.shell("asker", "", more).await?;
    bed.when("pods/asker", "it has ended", |seen| seen["status"]["phase"] == "Succeeded").await?;
    assert_eq!(bed.log("asker"), format!("system:serviceaccount:{}:default\n", bed.namespace));
    Ok(())
}

pub(crate) async fn claim(bed: &Bed) -> anyhow::Result<()> {
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

pub(crate) async fn exposed(bed: &Bed) -> anyhow::Result<()> {
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

pub(crate) async fn refused(bed: &Bed) -> anyhow::Result<()> {
    bed.shell("image", "true", json!({"containers": [{"image": "elsewhere"}]})).await?;
    bed.when("pods/image", "it is refused", |seen| {
        let waiting = &seen["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "ErrImagePull" && waiting["message"].to_string().contains("no image elsewhere")
    })
    .await?;
    let more = json!({"containers": [{"readinessProbe": {"grpc": {"port": 1}}}]});
    bed.shell("grpc", "true", more).await?;
    bed.when("pods/grpc", "it is refused", |seen| {
        seen["status"]["message"].to_string().contains("readinessProbe.grpc is not offered")
    })
    .await?;
    bed.delete("pods/grpc").await?;
    bed.gone("pods/grpc").await
}
