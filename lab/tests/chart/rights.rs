//! The chart's Roles, tried on a real API server: its audit log shows what the real binary asks for.

use std::collections::BTreeSet;
use std::time::Duration;

use lease_testbed::{ControlPlane, ControlPlaneOptions, Identity, Process, Signal, wait_until};
use serde_json::Value;

use crate::common::{leasehold, list, one, render, strings};

const LIMIT: Duration = Duration::from_secs(60);

/// A cluster, and files for the binary.
struct Stage {
    plane: ControlPlane,
    folder: tempfile::TempDir,
}

impl Stage {
    async fn account(&self, manifests: &[Value], role: &str) -> anyhow::Result<(Identity, BTreeSet<String>)> {
        let rules = one(manifests, "Role", role)["rules"].clone();
        let granted = list(&rules, "").iter().flat_map(|rule| strings(list(rule, "/verbs")));
        let granted = granted.map(str::to_owned).collect();
        Ok((self.plane.access().create_identity("prod", role, rules).await?, granted))
    }

    /// The binary in the account's name.
    fn command(&self, account: &Identity, args: &[&str]) -> anyhow::Result<Process> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = Process::command(leasehold().get_program())?.args(args);
        for (name, value) in [
            ("SPENDGUARD_LEADER_K8S_KUBECONFIG", account.kubeconfig().display().to_string()),
            ("SPENDGUARD_LEADER_SQLITE_PATH", file("leases.sqlite")),
            ("LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL", file("outbox.sqlite")),
            ("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "http://127.0.0.1:1".to_owned()),
            ("LEASEHOLD_HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ] {
            command = command.env(name, value);
        }
        command.spawn()
    }

    async fn done(&self, account: &Identity, args: &[&str]) -> anyhow::Result<()> {
        let process = self.command(account, args)?;
        let status = process.wait(LIMIT).await?;
        anyhow::ensure!(status.success(), "{args:?}: {}", process.lines().join("\n"));
        Ok(())
    }

    /// A forwarder leads, renews, and is stopped.
    async fn leads_and_stops(&self, account: &Identity, modes: &[&str]) -> anyhow::Result<()> {
        let args = [&["worker", "outbox-forwarder", "--ttl", "3s", "--log", "lease_core=debug,info"], modes]
            .concat();
        let worker = self.command(account, &args)?;
        worker.wait_for_line("leading", LIMIT).await?;
        let user = account.user();
        wait_until("it has written and watches", LIMIT, || async {
            self.used(&user).is_ok_and(|(used, _)| used.contains("update") && used.contains("watch"))
        })
        .await?;
        worker.signal(Signal::TERM)?;
        anyhow::ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.lines().join("\n"));
        Ok(())
    }

    /// What docs/operating.md says of a running pod, with the lease's name.
    async fn operates(&self, account: &Identity) -> anyhow::Result<()> {
        let (lease, k8s) = ("outbox-forwarder", ["--mode", "k8s"]);
        let worker = self.command(account, &[&["worker", lease, "--ttl", "3s"][..], &k8s].concat())?;
        worker.wait_for_line("leading", LIMIT).await?;
        let watching = self.command(account, &[&["watch", lease][..], &k8s].concat())?;
        watching.wait_for_line(lease, LIMIT).await?;
        for command in [
            &["status", lease][..],
            &["step-down", lease],
            &["restored", lease],
            &["fence", "raise", lease, "--above", "100"],
        ] {
            self.done(account, &[command, &k8s].concat()).await?;
        }
        let revoke = [&["revoke", lease, "--note", "by a test"][..], &k8s].concat();
        wait_until("its next term is ended", LIMIT, async || self.done(account, &revoke).await.is_ok())
            .await?;
        for process in [watching, worker] {
            process.signal(Signal::INT)?;
            process.wait(LIMIT).await?;
        }
        // All leases, or a new one, are an administrator's.
        for command in [&["status"][..], &["init", "another"]] {
            let refused = self.command(account, &[command, &k8s].concat())?;
            anyhow::ensure!(!refused.wait(LIMIT).await?.success(), "{command:?}");
            anyhow::ensure!(refused.lines().join("\n").contains("is forbidden"), "{:?}", refused.lines());
        }
        Ok(())
    }

    /// The verbs that an account used on Leases, and how often it was refused anything.
    fn used(&self, user: &str) -> anyhow::Result<(BTreeSet<String>, usize)> {
        let events = self.plane.audit().events()?;
        let its = events.iter().filter(|event| event.user == user);
        let refused = its.clone().filter(|event| event.code == 403).count();
        let used = its.filter(|event| event.resource == "leases").map(|event| event.verb.clone());
        Ok((used.collect(), refused))
    }

    async fn exactly(&self, account: &Identity, granted: &BTreeSet<String>) -> anyhow::Result<()> {
        let user = account.user();
        let same = || async { self.used(&user).is_ok_and(|used| used == (granted.clone(), 0)) };
        let waited = wait_until("the audit log is written", LIMIT, same).await;
        waited.map_err(|error| {
            error.context(format!("{user} was granted {granted:?}, used {:?}", self.used(&user)))
        })
    }
}

async fn stage() -> anyhow::Result<Stage> {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
    plane.access().create_namespace("prod").await?;
    Ok(Stage { plane, folder: tempfile::tempdir()? })
}

async fn manifests(sets: &'static [&'static str]) -> anyhow::Result<Vec<Value>> {
    let rendered = tokio::task::spawn_blocking(move || render("sqlite", sets)).await?;
    rendered.map_err(anyhow::Error::msg)
}

#[tokio::test]
async fn hook_workers_and_test_use_every_right_that_they_have_and_no_other() -> anyhow::Result<()> {
    let (stage, manifests) = (stage().await?, manifests(&["leaderElection.mode=k8s"]).await?);
    let leases = ["outbox-forwarder", "ttl-sweeper"];
    let k8s = ["--mode", "k8s"];
    let (init, may_init) = stage.account(&manifests, "leasehold-init").await?;
    stage.done(&init, &[&["init", "--new"], &leases[..], &k8s].concat()).await?;
    stage.done(&init, &[&["init"], &leases[..], &k8s].concat()).await?;
    let (worker, may_work) = stage.account(&manifests, "leasehold-outbox-forwarder").await?;
    stage.leads_and_stops(&worker, &k8s).await?;
    // `helm test`, by the hooks' account.
    stage.done(&init, &[&["status", "--json"], &leases[..], &k8s].concat()).await?;
    for (account, granted) in [(&init, &may_init), (&worker, &may_work)] {
        stage.exactly(account, granted).await?;
    }
    stage.operates(&worker).await
}

#[tokio::test]
async fn workers_that_move_a_lease_in_or_out_use_every_right_that_they_have_and_no_other()
-> anyhow::Result<()> {
    let stage = stage().await?;
    let into = manifests(&["leaderElection.mode=k8s", "leaderElection.migrateFrom=sqlite"]).await?;
    let out = manifests(&["leaderElection.migrateFrom=k8s", "fullnameOverride=back"]).await?;
    let (mover, may_move) = stage.account(&into, "leasehold-outbox-forwarder").await?;
    stage.done(&mover, &["init", "--new", "outbox-forwarder", "--mode", "sqlite"]).await?;
    stage.leads_and_stops(&mover, &["--mode", "k8s", "--migrate-from", "sqlite"]).await?;
    stage.exactly(&mover, &may_move).await?;

    let (leaver, may_leave) = stage.account(&out, "back-outbox-forwarder").await?;
    stage.leads_and_stops(&leaver, &["--mode", "sqlite", "--migrate-from", "k8s"]).await?;
    stage.exactly(&leaver, &may_leave).await
}

/// With `init.enabled=false` somebody else makes the registers, and `helm test` asks whether they did.
#[tokio::test]
async fn helm_test_tells_an_absent_lease_also_where_the_hooks_may_make_none() -> anyhow::Result<()> {
    let sets = &["leaderElection.mode=k8s", "init.enabled=false"];
    let (stage, manifests) = (stage().await?, manifests(sets).await?);
    let (tests, granted) = stage.account(&manifests, "leasehold-init").await?;
    let args = ["status", "--json", "outbox-forwarder", "ttl-sweeper", "--mode", "k8s"];
    let status = stage.command(&tests, &args)?;
    anyhow::ensure!(!status.wait(LIMIT).await?.success(), "nobody made them");
    let said = status.lines().join("\n");
    anyhow::ensure!(
        said.matches("\"state\":\"absent\"").count() == 2 && !said.contains("forbidden"),
        "{said}"
    );
    stage.exactly(&tests, &granted).await
}
