//! The containers of a release as processes, in Kubernetes' order: what the hooks make is all that the workers need.

use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, Process, free_port, wait_until};
use serde_json::Value;

use crate::common::{containers, leasehold, list, one, pod, rendered, strings};
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

#[tokio::test]
async fn after_the_hooks_every_worker_gets_ready_and_the_test_succeeds() -> anyhow::Result<()> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let folder = tempfile::tempdir()?;
    let manifests = tokio::task::spawn_blocking(|| rendered("postgres")).await?;
    let url = postgres.url();
    let run = |container: &Value| process(container, &environment(container, folder.path(), &url), &[]);
    for job in ["Job leasehold-init", "Job leasehold-init-upgrade"] {
        let (kind, name) = job.split_once(' ').expect("two words");
        for container in containers(pod(one(&manifests, kind, name)).expect("a pod")) {
            let step = run(container)?;
            anyhow::ensure!(step.wait(LIMIT).await?.success(), "{name}: {}", step.lines().join("\n"));
        }
    }
    let ingest = free_port()?;
    let client = lease_worker_common::http_client(Duration::from_secs(5))?;
    let mut workers = Vec::new();
    for role in ["canonical-ingest", "ledger", "outbox-forwarder", "ttl-sweeper"] {
        let deployment = one(&manifests, "Deployment", &format!("leasehold-{role}"));
        let container = &list(pod(deployment).expect("a pod"), "/containers")[0];
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
        let worker = process(container, &environment(container, folder.path(), &url), &more)?;
        let path = container.pointer("/readinessProbe/httpGet/path").and_then(Value::as_str).expect("a path");
        let page = format!("http://127.0.0.1:{port}{path}");
        let ready = async || client.get(&page).send().await.is_ok_and(|answer| answer.status() == 200);
        let waited = wait_until("it is ready", LIMIT, ready).await;
        waited.map_err(|error| error.context(format!("{role}: {}", worker.lines().join("\n"))))?;
        workers.push(worker);
    }
    let test = run(&list(pod(one(&manifests, "Pod", "leasehold-test")).expect("a pod"), "/containers")[0])?;
    anyhow::ensure!(test.wait(LIMIT).await?.success(), "{}", test.lines().join("\n"));
    Ok(())
}
