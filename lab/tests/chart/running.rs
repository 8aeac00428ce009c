//! The containers of a release as processes, in Kubernetes' order: what the hooks make is all that the workers need.

use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, Process, free_port, wait_until};
use serde_json::Value;

use crate::common::{containers, leasehold, list, one, pod, render, repository, strings};
use crate::settings::environment;

const LIMIT: Duration = Duration::from_secs(60);

/// A container's program, with `more` in place of what it was given.
fn process(
    container: &Value,
    variables: &[(String, String)],
    more: &[(&str, String)],
) -> anyhow::Result<Process> {
    let mut command = Process::command(leasehold().get_program())?.args(strings(list(container, "/args")));
    for (name, value) in variables {
        command = command.env(name, value);
    }
    for (name, value) in more {
        command = command.env(name, value);
    }
    command.spawn()
}

/// A release's containers and their files.
struct Release {
    manifests: Vec<Value>,
    folder: tempfile::TempDir,
}

impl Release {
    async fn of(example: &'static str, sets: &'static [&'static str]) -> anyhow::Result<Self> {
        let rendered = tokio::task::spawn_blocking(move || render(example, sets)).await?;
        Ok(Self { manifests: rendered.map_err(anyhow::Error::msg)?, folder: tempfile::tempdir()? })
    }

    fn containers(&self, kind: &str, name: &str) -> Vec<&Value> {
        containers(pod(one(&self.manifests, kind, name)).expect("a pod")).collect()
    }

    async fn succeeds(&self, container: &Value, url: &impl Fn(&str) -> String) -> anyhow::Result<()> {
        let step = process(container, &environment(container, self.folder.path(), url), &[])?;
        anyhow::ensure!(step.wait(LIMIT).await?.success(), "{}", step.lines().join("\n"));
        Ok(())
    }

    async fn hooks(&self, url: impl Fn(&str) -> String) -> anyhow::Result<()> {
        for job in ["leasehold-init", "leasehold-init-upgrade"] {
            for container in self.containers("Job", job) {
                self.succeeds(container, &url).await.map_err(|error| error.context(job))?;
            }
        }
        Ok(())
    }

    /// Every worker gets ready, and then `helm test` succeeds.
    async fn works(&self, url: impl Fn(&str) -> String) -> anyhow::Result<()> {
        let ingest = free_port()?;
        let client = lease_worker_common::http_client(Duration::from_secs(5))?;
        let mut workers = Vec::new();
        for role in ["canonical-ingest", "ledger", "outbox-forwarder", "ttl-sweeper"] {
            let container = self.containers("Deployment", &format!("leasehold-{role}"))[0];
            let port = if role == "canonical-ingest" { ingest } else { free_port()? };
            let mut more = vec![("LEASEHOLD_HTTP_LISTEN", format!("127.0.0.1:{port}"))];
            match role {
                "ledger" => more.push(("LEASEHOLD_LEDGER_LISTEN", "127.0.0.1:0".to_owned())),
                "outbox-forwarder" => {
                    let at = format!("http://127.0.0.1:{ingest}/v1/events");
                    more.push(("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", at));
                }
                _ => {}
            }
            let worker = process(container, &environment(container, self.folder.path(), &url), &more)?;
            let path = container.pointer("/readinessProbe/httpGet/path").and_then(Value::as_str);
            let page = format!("http://127.0.0.1:{port}{}", path.expect("a path"));
            let ready = async || client.get(&page).send().await.is_ok_and(|answer| answer.status() == 200);
            let waited = wait_until("it is ready", LIMIT, ready).await;
            waited.map_err(|error| error.context(format!("{role}: {}", worker.lines().join("\n"))))?;
            workers.push(worker);
        }
        self.succeeds(self.containers("Pod", "leasehold-test")[0], &url).await
    }
}

#[tokio::test]
async fn after_the_hooks_every_worker_gets_ready_and_the_test_succeeds() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let release = Release::of("postgres", &[]).await?;
    release.hooks(|_| postgres.url()).await?;
    release.works(|_| postgres.url()).await
}

/// The scripts of docs/operating.md, with the variables that name their roles.
const ROLES: [(&str, &[&str]); 3] = [
    ("backend-postgres/roles.sql", &["role"]),
    ("workers/spendguard/src/ledger/sql/roles.sql", &["ledger", "sweeper", "forwarder"]),
    ("workers/spendguard/src/canonical/roles.sql", &["ingest"]),
];

#[tokio::test]
async fn hooks_with_the_owners_urls_serve_workers_in_the_documented_roles() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let sets = &[
        "leaderElection.postgres.migration.secretName=lease-owner",
        "leaderElection.postgres.migration.urlKey=owner",
        "databases.ledger.migration.secretName=ledger-owner",
        "databases.ledger.migration.urlKey=owner",
        "databases.sweeper.secretName=sweeper-db",
        "databases.outbox.secretName=outbox-db",
        "databases.outbox.migration.secretName=ledger-owner",
        "databases.outbox.migration.urlKey=owner",
        "databases.canonical.migration.secretName=canonical-owner",
        "databases.canonical.migration.urlKey=owner",
    ];
    let release = Release::of("postgres", sets).await?;
    release
        .hooks(|file| {
            assert!(file.ends_with("/owner"), "{file}");
            postgres.url()
        })
        .await?;

    for (script, roles) in ROLES {
        let mut psql = tokio::process::Command::new("psql");
        psql.args([&postgres.url(), "-q", "-f"]).arg(repository().join(script));
        for role in roles {
            psql.args(["-v", &format!("{role}=the_{role}")]);
        }
        let done = psql.output().await?;
        anyhow::ensure!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        for role in roles {
            let may = format!("SELECT has_schema_privilege('the_{role}', 'public', 'CREATE')");
            anyhow::ensure!(postgres.psql(&may).await?.trim() == "f", "{role} may make tables");
            postgres.psql(&format!("ALTER ROLE the_{role} PASSWORD 'secret'")).await?;
        }
    }
    let (whole, database) = (postgres.url(), postgres.url());
    let database = database.rsplit('/').next().and_then(|rest| rest.split('?').next()).expect("a database");
    assert!(!whole.contains("the_"), "the owner is another");
    release
        .works(|file| {
            let role = match file {
                "postgres/url" => "role",
                "ledger/url" => "ledger",
                "sweeper/url" => "sweeper",
                "outbox/url" => "forwarder",
                "canonical/url" => "ingest",
                other => panic!("{other} is no worker's"),
            };
            postgres.url_for(database, &format!("the_{role}"), "secret")
        })
        .await
}
