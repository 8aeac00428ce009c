//! Values that the chart refuses, each with its message and with similar values that render.

use crate::common::{ALL, helm, render};

/// An example's values and what is set beside them; parts of the sentence; what then makes it render.
type Gate = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

const GATES: &[Gate] = &[
    (
        "shared",
        &["leaderElection.mode=zookeeper"],
        &["leaderElection.mode is \"zookeeper\": use one of postgres, etcd, k8s, sqlite, disabled"],
        &["leaderElection.mode=k8s"],
    ),
    (
        "disabled",
        &["outboxForwarder.replicas=2"],
        &[
            "outboxForwarder.replicas is 2",
            "mode is \"disabled\"",
            "use replicas 1, or mode postgres, etcd or k8s",
        ],
        &["outboxForwarder.replicas=1"],
    ),
    (
        "sqlite",
        &["outboxForwarder.replicas=3"],
        &["outboxForwarder.replicas is 3", "mode is \"sqlite\""],
        &["outboxForwarder.replicas=0"],
    ),
    (
        "disabled",
        &["ttlSweeper.replicas=2"],
        &["ttlSweeper.replicas is 2", "mode is \"disabled\""],
        &["ttlSweeper.replicas=1"],
    ),
    (
        "sqlite",
        &["ttlSweeper.replicas=2"],
        &["ttlSweeper.replicas is 2", "mode is \"sqlite\""],
        &["ttlSweeper.replicas=2", "ttlSweeper.enabled=false"],
    ),
    (
        "full",
        &["leaderElection.migrateFrom=sqlite"],
        &["replicas is 2", "leaderElection.migrateFrom is \"sqlite\"", "one pod only"],
        &["leaderElection.migrateFrom=sqlite", "outboxForwarder.replicas=1", "ttlSweeper.replicas=1"],
    ),
    (
        "etcd",
        &["ttlSweeper.leaseName=outbox-forwarder"],
        &[
            "outboxForwarder.leaseName and ttlSweeper.leaseName are both \"outbox-forwarder\"",
            "a name of its own",
        ],
        &["ttlSweeper.leaseName=sweeper"],
    ),
    (
        "etcd",
        &["outboxForwarder.serviceAccount.name=ours", "hooks.serviceAccount.name=ours"],
        &["are both \"ours\"", "set create=false for both"],
        &[
            "outboxForwarder.serviceAccount.name=ours",
            "hooks.serviceAccount.name=ours",
            "outboxForwarder.serviceAccount.create=false",
            "hooks.serviceAccount.create=false",
        ],
    ),
    (
        "etcd",
        &[
            "outboxForwarder.extraEnv[0].name=LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL",
            "outboxForwarder.extraEnv[0].valueFrom.secretKeyRef.name=outbox",
            "outboxForwarder.extraEnv[0].valueFrom.secretKeyRef.key=url",
        ],
        &["is set by the chart itself"],
        &["outboxForwarder.extraEnv[0].name=LEASEHOLD_LOG", "outboxForwarder.extraEnv[0].value=debug"],
    ),
    (
        "full",
        &["sidecar.acknowledgeMultiPod=false"],
        &["the sidecar is a DaemonSet", "set sidecar.acknowledgeMultiPod=true"],
        &["sidecar.acknowledgeMultiPod=true"],
    ),
    (
        "etcd",
        &["workloadInstanceIdOverride=me"],
        &["would give all 2 pods of outboxForwarder one name", "remove it"],
        &["workloadInstanceIdOverride=me", "outboxForwarder.replicas=1", "ttlSweeper.replicas=1"],
    ),
    (
        "full",
        &["workloadInstanceIdOverride=me", "outboxForwarder.replicas=1", "ttlSweeper.replicas=1"],
        &["would give the sidecars of all nodes one name"],
        &[
            "workloadInstanceIdOverride=me",
            "outboxForwarder.replicas=1",
            "ttlSweeper.replicas=1",
            "sidecar.enabled=false",
        ],
    ),
    (
        "full",
        &["leaderElection.migrateFrom=k8s"],
        &["can't be moved to where they are"],
        &["leaderElection.migrateFrom=postgres", "leaderElection.postgres.secretName=lease-db"],
    ),
    (
        "full",
        &["leaderElection.migrateFrom=zookeeper"],
        &["leaderElection.migrateFrom is \"zookeeper\": use one of postgres, etcd, k8s, sqlite, disabled"],
        &["leaderElection.migrateFrom=disabled"],
    ),
    (
        "disabled",
        &["leaderElection.migrateFrom=disabled"],
        &["can't be moved to where they are"],
        &["leaderElection.migrateFrom=postgres"],
    ),
    (
        "full",
        &["leaderElection.renewIntervalMs=5001"],
        &["renewIntervalMs is 5001: use at most ttlMs/3 = 5000"],
        &["leaderElection.renewIntervalMs=5000"],
    ),
    (
        "full",
        &["leaderElection.retryIntervalMs=5001"],
        &["retryIntervalMs is 5001", "renewIntervalMs = 5000"],
        &["leaderElection.retryIntervalMs=5000"],
    ),
    (
        "full",
        &["leaderElection.stopGraceMs=4971"],
        &["stopGraceMs is 4971", "leaves 4970", "one late renewal"],
        &["leaderElection.stopGraceMs=4970"],
    ),
    (
        "full",
        &["leaderElection.maxTtlMs=14999"],
        &["maxTtlMs is 14999, less than ttlMs 15000"],
        &["leaderElection.maxTtlMs=15000"],
    ),
    (
        "full",
        &["leaderElection.ttlMs=15500"],
        &["ttlMs is 15500", "whole seconds", "multiple of 1000"],
        &["leaderElection.ttlMs=16000"],
    ),
    (
        "etcd",
        &["leaderElection.ttlMs=99"],
        &["ttlMs is 99: use a whole number of milliseconds from 100 to 86400000"],
        &["leaderElection.ttlMs=15500"],
    ),
    (
        "etcd",
        &["leaderElection.stopBudgetMs=86400001"],
        &["stopBudgetMs is 86400001: use"],
        &["leaderElection.stopBudgetMs=86400000"],
    ),
    (
        "etcd",
        &["leaderElection.maxSilenceMs=99"],
        &["maxSilenceMs is 99: use a whole number of milliseconds from 100 to 86400000"],
        &["leaderElection.maxSilenceMs=100"],
    ),
    (
        "etcd",
        &["terminationGracePeriodSeconds=29"],
        &["terminationGracePeriodSeconds is 29", "needs 30", "killed while it drains"],
        &["terminationGracePeriodSeconds=30"],
    ),
    (
        "shared",
        &["leaderElection.postgres.secretName="],
        &["leaderElection.postgres.secretName is empty", "kubectl create secret"],
        &["leaderElection.postgres.secretName=other"],
    ),
    (
        "move",
        &["leaderElection.migrateFrom=postgres"],
        &["leaderElection.postgres.secretName is empty"],
        &["leaderElection.migrateFrom=postgres", "leaderElection.postgres.secretName=lease-db"],
    ),
    (
        "etcd",
        &["leaderElection.etcd.secretName="],
        &["leaderElection.etcd.secretName is empty"],
        &["leaderElection.etcd.secretName=other"],
    ),
    (
        "disabled",
        &["leaderElection.mode=etcd"],
        &["leaderElection.etcd.endpoints is empty"],
        &["leaderElection.mode=etcd", "leaderElection.etcd.endpoints={http://etcd:2379}"],
    ),
    (
        "etcd",
        &["leaderElection.etcd.passwordKey="],
        &["user is set without passwordKey"],
        &["leaderElection.etcd.passwordKey=", "leaderElection.etcd.user="],
    ),
    (
        "etcd",
        &["leaderElection.etcd.certKey=tls.crt"],
        &["certKey and keyKey belong together"],
        &["leaderElection.etcd.certKey=tls.crt", "leaderElection.etcd.keyKey=tls.key"],
    ),
    (
        "etcd",
        &["databases.ledger.secretName="],
        &["databases.ledger.secretName is empty"],
        &[
            "databases.ledger.secretName=",
            "databases.outbox.secretName=outbox",
            "ledger.enabled=false",
            "ttlSweeper.enabled=false",
        ],
    ),
    (
        "etcd",
        &["databases.canonical.secretName="],
        &["databases.canonical.secretName is empty"],
        &[
            "databases.canonical.secretName=",
            "canonicalIngest.enabled=false",
            "outboxForwarder.ingestUrl=http://elsewhere/v1/events",
        ],
    ),
    (
        "etcd",
        &["canonicalIngest.enabled=false"],
        &["outboxForwarder.ingestUrl is empty"],
        &["canonicalIngest.enabled=false", "outboxForwarder.enabled=false"],
    ),
    (
        "full",
        &["ledger.access.secretName="],
        &["ledger.access.secretName is empty", "in any tenant's name", "kubectl create secret"],
        &["ledger.access.secretName=", "ledger.access.withoutAuthentication=true"],
    ),
    (
        "etcd",
        &["canonicalIngest.access.secretName="],
        &["canonicalIngest.access.secretName is empty", "canonicalIngest.tls.clientCaKey"],
        &[
            "canonicalIngest.access.secretName=",
            "canonicalIngest.tls.secretName=tls",
            "canonicalIngest.tls.clientCaKey=ca.crt",
        ],
    ),
    (
        "shared",
        &["canonicalIngest.tls.secretName="],
        &["outboxForwarder.ingestTls.secretName is \"forwarder-tls\"", "for https only"],
        &["canonicalIngest.tls.secretName=", "outboxForwarder.ingestTls.secretName="],
    ),
    ("full", &["sidecar.tenantId="], &["sidecar.tenantId is empty"], &["sidecar.tenantId=other"]),
    (
        "full",
        &["ledger.enabled=false"],
        &["sidecar.ledgerUrl is empty"],
        &["ledger.enabled=false", "sidecar.ledgerUrl=http://ledger:50051"],
    ),
    (
        "shared",
        &["sidecar.ledgerTls.secretName="],
        &["ledgerTls.secretName is \"\"", "at https needs a Secret"],
        &["sidecar.ledgerTls.secretName=", "ledger.tls.secretName="],
    ),
    (
        "etcd",
        &["ledger.env.LEASEHOLD_LEDGER_DATABASE_URL=postgres://me:secret@db/x"],
        &["ledger.env.LEASEHOLD_LEDGER_DATABASE_URL may hold a secret"],
        &["ledger.env.LEASEHOLD_LOG=debug"],
    ),
    (
        "etcd",
        &["outboxForwarder.env.LEASEHOLD_ROLE=ledger"],
        &["is set by the chart itself", "use the value that stands for it"],
        &["outboxForwarder.env.LEASEHOLD_LOG=debug"],
    ),
    (
        "etcd",
        &["outboxForwarder.extraEnv[0].name=POD_NAME", "outboxForwarder.extraEnv[0].value=me"],
        &["outboxForwarder.extraEnv: POD_NAME is set by the chart itself"],
        &[
            "outboxForwarder.extraEnv[0].name=HTTPS_PROXY",
            "outboxForwarder.extraEnv[0].value=http://proxy:3128",
        ],
    ),
    (
        "etcd",
        &["ledger.env.LEASEHOLD_LOG=debug", "ledger.extraEnv[0].name=LEASEHOLD_LOG"],
        &["ledger.extraEnv: LEASEHOLD_LOG is set twice: remove one"],
        &["ledger.env.LEASEHOLD_LOG=debug", "ledger.extraEnv[0].name=RUST_BACKTRACE"],
    ),
    (
        "etcd",
        &["ledger.extraEnv[0].name=PGPASSWORD", "ledger.extraEnv[0].value=secret"],
        &["ledger.extraEnv: PGPASSWORD may hold a secret", "valueFrom"],
        &[
            "ledger.extraEnv[0].name=PGPASSWORD",
            "ledger.extraEnv[0].valueFrom.secretKeyRef.name=ledger-db",
            "ledger.extraEnv[0].valueFrom.secretKeyRef.key=password",
        ],
    ),
    (
        "etcd",
        &["hooks.extraEnv[0].name=HTTPS_PROXY", "hooks.extraEnv[0].value=http://me:secret@proxy:3128"],
        &["hooks.extraEnv: HTTPS_PROXY may hold a secret"],
        &["hooks.extraEnv[0].name=HTTPS_PROXY", "hooks.extraEnv[0].value=http://proxy:3128"],
    ),
    (
        "k8s",
        &["hooks.extraEnv[0].name=SPENDGUARD_LEADER_ELECTION_MODE", "hooks.extraEnv[0].value=etcd"],
        &["hooks.extraEnv: SPENDGUARD_LEADER_ELECTION_MODE is set by the chart itself"],
        &["hooks.extraEnv[0].name=LEASEHOLD_LOG", "hooks.extraEnv[0].value=debug"],
    ),
    (
        "k8s",
        &["ttlSweeper.serviceAccount.create=false"],
        &["ttlSweeper.serviceAccount.create is false and its name is empty: name the account"],
        &["ttlSweeper.serviceAccount.create=false", "ttlSweeper.serviceAccount.name=sweepers"],
    ),
    (
        "k8s",
        &["commonLabels.app\\.kubernetes\\.io/component=mine"],
        &["commonLabels has app.kubernetes.io/component, which the chart sets itself"],
        &["commonLabels.app\\.kubernetes\\.io/part-of=mine"],
    ),
    (
        "k8s",
        &["ledger.podLabels.app\\.kubernetes\\.io/name=mine"],
        &["ledger.podLabels has app.kubernetes.io/name", "nameOverride"],
        &["nameOverride=mine"],
    ),
    (
        "k8s",
        &["databases.outbox.migration.secretName=owner"],
        &["databases.outbox.migration.secretName is \"owner\" and databases.outbox.secretName is empty"],
        &["databases.outbox.migration.secretName=owner", "databases.outbox.secretName=outbox"],
    ),
    (
        "etcd",
        &["databases.ledger.secretName=", "databases.sweeper.secretName=sweeper", "ledger.enabled=false"],
        &["databases.ledger.secretName is empty"],
        &[
            "databases.ledger.secretName=",
            "databases.sweeper.secretName=sweeper",
            "databases.outbox.secretName=outbox",
            "ledger.enabled=false",
        ],
    ),
    (
        "k8s",
        &["image.pullSecrets[0].name=registry"],
        &["image.pullSecrets was renamed", "\"name\":\"registry\"", "give the value to imagePullSecrets"],
        &["imagePullSecrets[0].name=registry"],
    ),
    (
        "k8s",
        &["runAsUser=1000"],
        &["runAsUser was renamed", "1000", "podSecurityContext.runAsUser, runAsGroup and fsGroup"],
        &["podSecurityContext.runAsUser=1000", "runAsUser=null"],
    ),
    (
        "sqlite",
        &["outboxForwarder.extraVolumes[0].name=leases"],
        &[
            "outboxForwarder.extraVolumes has a volume \"leases\"",
            "another name (taken: forwarder-token, leases, ledger)",
        ],
        &["outboxForwarder.extraVolumes[0].name=mine"],
    ),
    (
        "full",
        &["sidecar.extraVolumes[0].name=socket"],
        &["sidecar.extraVolumes has a volume \"socket\"", "taken: "],
        &["ledger.extraVolumes[0].name=socket"],
    ),
    (
        "k8s",
        &["hooks.extraVolumes[0].name=canonical"],
        &["hooks.extraVolumes has a volume \"canonical\"", "taken: canonical, "],
        &["hooks.extraVolumes[0].name=outbox"],
    ),
];

#[test]
fn each_gate_says_what_is_wrong_and_its_neighbour_renders() {
    for (example, sets, parts, neighbour) in GATES {
        let complaint = render(example, sets).expect_err(&format!("{example} {sets:?} is refused"));
        for part in *parts {
            assert!(complaint.contains(part), "{example} {sets:?}: no {part:?} in {complaint}");
        }
        render(example, neighbour).unwrap_or_else(|error| panic!("{example} {neighbour:?}: {error}"));
    }
}

#[test]
fn the_schema_refuses_what_is_misspelt_or_of_the_wrong_kind() {
    for (set, part) in [
        ("leaderElection.ttl=15000", "ttl"),
        ("outboxForwarder.replica=2", "replica"),
        ("replicas=2", "replicas"),
        ("leaderElection.ttlMs=15s", "ttlMs"),
        ("leaderElection.ttlMs=1500.5", "ttlMs"),
        ("outboxForwarder.replicas=-1", "replicas"),
        ("sidecar.fencingScopeMode=perNode", "fencingScopeMode"),
        ("sidecar.socket.gid=0", "gid"),
        ("databases.ledger.urlKey=", "urlKey"),
        ("podSecurityContext.runAsUser=0", "runAsUser"),
        ("outboxForwarder.leaseName=Forwarder", "leaseName"),
        ("outboxForwarder.env.PATH=/", "PATH"),
        ("outboxForwarder.replicas=null", "replicas"),
        ("leaderElection.ttlMs=null", "ttlMs"),
        ("leaderElection.etcd.endpoints={https://me:secret@etcd:2379}", "endpoints"),
        ("image.digest=0123", "digest"),
        ("image.registry=registry.example.com/", "registry"),
        ("ledger.extraEnv[0].valu=1", "extraEnv"),
        ("hooks.replicas=1", "replicas"),
    ] {
        let complaint = render("full", &[set]).expect_err(set);
        assert!(complaint.contains("don't meet the specifications of the schema"), "{set}: {complaint}");
        assert!(complaint.contains(part), "{set}: {complaint}");
    }
}

#[test]
fn helm_lint_finds_nothing_in_any_example() {
    for example in ALL {
        let told =
            helm(&["lint", "--strict"], example, &[]).unwrap_or_else(|error| panic!("{example}: {error}"));
        assert!(!told.contains("[WARNING]"), "{example}: {told}");
    }
}
