//! A cluster whose pods run, the servers beside it, and a release of the chart.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use lease_node::{Cluster, ClusterOptions, Image};
use lease_testbed::{Etcd, EtcdOptions, Folder, Postgres, PostgresOptions, helm, wait_for};
use serde_json::json;
use sqlx::PgPool;

use super::{ANYBODY, ANYBODYS_IMAGE, NAMESPACE, RELEASE};
use crate::drill::books::Books;
use crate::drill::load::TENANT;
use crate::drill::pods::binary;

pub(super) const NODES: [&str; 2] = ["node-a", "node-b"];
/// The ttl of the leases and of the scope.
pub(super) const TTL: Duration = Duration::from_secs(3);
pub(super) const SCOPE: &str = "payments";

/// Generous, since three servers and a dozen pods share the machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// The release's callers, and the hashes of their tokens by `sha256sum`.
const FORWARDER_TOKEN: &str = "e2e-forwarder-0123456789abcdef0123";
const FORWARDER_SHA256: &str = "fc38b211b21cde1a0054429162e528b8449186ae92c341d80d3716b950e599cb";
const SIDECARS_TOKEN: &str = "e2e-sidecars-0123456789abcdef01234";
const SIDECARS_SHA256: &str = "18fe7b495f6203d19332fd754e81f5046760ae50340ff0fbdabfa88d751920e4";

/// An access file with one caller.
fn caller(name: &str, right: &str, hash: &str) -> String {
    format!("[{name}]\ntokenSha256 = ['{hash}']\nmay = ['{right}']\ntenants = ['{TENANT}']\n")
}

pub(super) struct Site {
    pub(super) cluster: Cluster,
    pub(super) client: kube::Client,
    /// The leases' own database, for mode postgres.
    pub(super) leases: PgPool,
    ledger: PgPool,
    canonical: PgPool,
    pub(super) chart: PathBuf,
    helm: PathBuf,
    folder: Folder,
    postgres: Postgres,
    /// Its address for pods.
    postgres_inside: String,
    _etcd: Etcd,
}

impl Site {
    pub(super) async fn start(chart: &Path) -> anyhow::Result<Self> {
        let chart = chart.canonicalize().with_context(|| {
            format!("there is no chart at {}: name its folder by --chart", chart.display())
        })?;
        let helm = helm::program().await?;
        let binary = binary()?;
        let image = |name: &str, (user, group)| {
            Image::new(name)
                .file("/usr/local/bin/leasehold", &binary)
                .file("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
                .entrypoint(["/usr/local/bin/leasehold"])
                .user(user, group)
        };
        let nodes = NODES.iter().fold(ClusterOptions::default(), |options, name| options.node(*name));
        let (postgres, etcd, cluster) = tokio::try_join!(
            Postgres::start(PostgresOptions::default().max_connections(300)),
            Etcd::start(EtcdOptions::default()),
            Cluster::start(
                nodes.image(image("leasehold", (65532, 65532))).image(image(ANYBODYS_IMAGE, ANYBODY)),
            ),
        )?;
        let [leases, ledger, canonical] = [
            postgres.create_database("leases").await?,
            postgres.create_database("ledger").await?,
            postgres.create_database("canonical").await?,
        ];
        let client = cluster.client().await?;
        // The hostPath of its sidecars needs this; everything else meets `restricted`.
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
        cluster.access().request("POST", "/api/v1/namespaces", Some(namespace)).await?;
        let there = cluster.expose(postgres.addr()).await?.to_string();
        let inside = |url: &str| anyhow::Ok(url.replace(&postgres.addr().to_string(), &there));
        for (name, key, content) in [
            ("leases-db", "url", inside(&leases)?),
            ("ledger-db", "url", inside(&ledger)?),
            ("canonical-db", "url", inside(&canonical)?),
            ("ledger-access", "access.toml", caller("sidecars", "sidecar", SIDECARS_SHA256)),
            ("ingest-access", "access.toml", caller("forwarder", "forward", FORWARDER_SHA256)),
            ("sidecar-token", "token", SIDECARS_TOKEN.to_owned()),
            ("forwarder-token", "token", FORWARDER_TOKEN.to_owned()),
        ] {
            let secret = json!({"metadata": {"name": name}, "stringData": {key: content}});
            let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
            cluster.access().request("POST", &path, Some(secret)).await?;
        }
        let member = etcd.endpoints().first().cloned().context("a member")?;
        let member = member.trim_start_matches("http://").parse()?;
        let endpoint = format!("http://{}", cluster.expose(member).await?);
        let ttl = TTL.as_millis() as u64;
        let values = json!({
            "image": {"repository": "leasehold", "tag": "e2e"},
            "leaderElection": {
                "ttlMs": ttl, "renewIntervalMs": ttl / 3, "retryIntervalMs": 300, "stopBudgetMs": 10_000,
                "postgres": {"secretName": "leases-db"}, "etcd": {"endpoints": [endpoint]},
            },
            "databases": {"ledger": {"secretName": "ledger-db"}, "canonical": {"secretName": "canonical-db"}},
            "ledger": {"access": {"secretName": "ledger-access"}},
            "canonicalIngest": {"access": {"secretName": "ingest-access"}},
            "outboxForwarder": {"ingestToken": {"secretName": "forwarder-token"}},
            "sidecar": {
                "ledgerToken": {"secretName": "sidecar-token"}, "enabled": true, "acknowledgeMultiPod": true, "fencingScopeMode": "shared",
                "fencingScopeId": SCOPE, "tenantId": TENANT, "fencingTtlSeconds": TTL.as_secs(),
            },
            "nodeLossTolerationSeconds": 1,
        });
        let folder = Folder::new("e2e")?;
        std::fs::write(folder.path().join("values.json"), values.to_string())?;
        let (leases, ledger, canonical) = (
            PgPool::connect(&leases).await?,
            PgPool::connect(&ledger).await?,
            PgPool::connect(&canonical).await?,
        );
        Ok(Self {
            cluster,
            client,
            leases,
            ledger,
            canonical,
            chart,
            helm,
            folder,
            postgres,
            postgres_inside: there,
            _etcd: etcd,
        })
    }

    pub(super) fn books(&self) -> Books<'_> {
        Books { ledger: &self.ledger, canonical: &self.canonical }
    }

    /// A new database, by its URL for pods.
    pub(super) async fn database(&self, name: &str) -> anyhow::Result<String> {
        let url = self.postgres.create_database(name).await?;
        Ok(url.replace(&self.postgres.addr().to_string(), &self.postgres_inside))
    }

    /// A number from the canonical store.
    pub(super) async fn canonical(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.canonical).await?)
    }

    /// A number from the ledger's database.
    pub(super) async fn ledger(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.ledger).await?)
    }

    /// The budget that an operator would set once, when the ledger's tables are there.
    pub(super) async fn set_budget(&self) -> anyhow::Result<()> {
        let sql = "INSERT INTO budgets (tenant_id, currency, limit_minor) VALUES ($1, 'EUR', 100000000)";
        sqlx::query(sql).bind(TENANT).execute(&self.ledger).await?;
        Ok(())
    }

    /// `helm install` or `upgrade`, and waits until all is ready; `sets` are values, as `leaderElection.mode=etcd`.
    pub(super) async fn release(&self, verb: &str, sets: &[&str]) -> anyhow::Result<()> {
        self.ask_for(verb, sets, &["--wait"]).await
    }

    /// The same, but waits only for the hooks.
    pub(super) async fn ask_for(&self, verb: &str, sets: &[&str], more: &[&str]) -> anyhow::Result<()> {
        let (chart, values) = (self.chart.display().to_string(), self.folder.path().join("values.json"));
        let values = values.display().to_string();
        let mut args = vec![verb, RELEASE, &chart, "--values", &values];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        args.extend(more);
        self.helm(&args).await.map(drop)
    }

    /// Runs helm and returns its output.
    pub(super) async fn helm(&self, args: &[&str]) -> anyhow::Result<String> {
        self.helm_in(NAMESPACE, args).await
    }

    /// The same for a release in another namespace.
    pub(super) async fn helm_in(&self, namespace: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(&self.helm);
        let limit = format!("{}s", PATIENCE.as_secs());
        command.args(args).args(["--namespace", namespace]).env("KUBECONFIG", self.cluster.kubeconfig());
        if ["install", "upgrade", "rollback", "uninstall", "test"].contains(&args[0]) {
            command.args(["--timeout", &limit]);
        }
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.folder.path().join(folder));
        }
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("helm {}: {}\n{}", args.join(" "), told.trim_end(), self.unready().await);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The last lines of every pod that isn't ready, for error messages.
    pub(super) async fn unready(&self) -> String {
        let pods = super::pods::all(&self.client).await.unwrap_or_default();
        let unready = pods.iter().filter(|pod| !pod.ready);
        let told = unready.map(|pod| {
            let logs = self.cluster.logs(NAMESPACE, &pod.name);
            let lines: Vec<_> = logs.lines().collect();
            let last = lines[lines.len().saturating_sub(8)..].join("\n");
            format!("--- {} on {}, which is not ready:\n{last}", pod.name, pod.node)
        });
        told.collect::<Vec<_>>().join("\n")
    }

    /// Waits until `holds` succeeds, within the patience of the whole run; `what` names it.
    pub(super) async fn until<T, F: Future<Output = anyhow::Result<T>>>(
        &self,
        what: &str,
        holds: impl FnMut() -> F,
    ) -> anyhow::Result<T> {
        match wait_for(what, PATIENCE, holds).await {
            Ok(value) => Ok(value),
            Err(why) => Err(why.context(self.unready().await)),
        }
    }
}
