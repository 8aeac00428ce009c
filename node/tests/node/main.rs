//! Pods as processes: a real control plane, and nodes of this crate. This very program is also the program of some of
//! the pods, and the runner that is killed.

mod bed;
mod faults;
mod found;
mod lives;
mod program;

use std::sync::Arc;

use anyhow::Context;
use lease_node::in_private_network;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use tokio::sync::RwLock;

use bed::{Bed, LOSSY, start};

const ROLE: &str = "TESTBED_NODE_ROLE";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "serve", port] => return program::serve(port),
        [_, "get", host, port] => return program::get(host, port),
        [_, "whoami"] => return tokio::runtime::Runtime::new()?.block_on(program::whoami()),
        _ => {}
    }
    let arguments = Arguments::from_args();
    if arguments.list {
        libtest_mimic::run(&arguments, trials(|_, _| Ok(()))).exit();
    }
    in_private_network()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::var(ROLE).is_ok() {
        return runtime.block_on(faults::runner());
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
        "settings_and_files_arrive_in_a_pod_and_its_token_is_accepted",
        "a_user_without_rights_works_in_a_folder_that_a_root_init_container_made",
        "a_service_leads_only_to_pods_that_are_ready",
        "a_container_whose_liveness_probe_fails_is_restarted",
        "a_program_reaches_the_api_server_by_its_in_cluster_configuration",
        "a_claim_that_is_bound_to_a_folder_of_a_node_keeps_what_is_written",
        "a_server_of_the_machine_is_reached_once_it_is_exposed",
        "a_field_that_is_not_offered_is_refused_by_name",
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

/// Held alone by the one case that stops the API server.
static API_SERVER: RwLock<()> = RwLock::const_new(());

async fn case(name: &str, bed: Bed) -> anyhow::Result<()> {
    if name == "nothing_is_left_of_a_killed_runner" {
        return faults::nothing_is_left().await;
    }
    if name == "pods_survive_a_restart_of_the_api_server" {
        let _alone = API_SERVER.write().await;
        bed.begin().await?;
        return faults::restart(&bed).await;
    }
    let _with_others = API_SERVER.read().await;
    bed.begin().await?;
    match name {
        "a_deployment_runs_on_two_nodes_and_becomes_available" => lives::deployment(&bed).await,
        "a_deleted_pod_gets_sigterm_its_grace_and_then_sigkill" => lives::deletion(&bed).await,
        "a_crashing_container_is_restarted_with_backoff_and_counted" => lives::crash(&bed).await,
        "the_pod_of_a_job_completes" => lives::job(&bed).await,
        "settings_and_files_arrive_in_a_pod_and_its_token_is_accepted" => found::told(&bed).await,
        "a_user_without_rights_works_in_a_folder_that_a_root_init_container_made" => found::user(&bed).await,
        "a_service_leads_only_to_pods_that_are_ready" => found::service(&bed).await,
        "a_container_whose_liveness_probe_fails_is_restarted" => lives::liveness(&bed).await,
        "a_program_reaches_the_api_server_by_its_in_cluster_configuration" => found::in_cluster(&bed).await,
        "a_claim_that_is_bound_to_a_folder_of_a_node_keeps_what_is_written" => found::claim(&bed).await,
        "a_server_of_the_machine_is_reached_once_it_is_exposed" => found::exposed(&bed).await,
        "a_field_that_is_not_offered_is_refused_by_name" => found::refused(&bed).await,
        "the_pods_of_a_lost_node_are_replaced_and_it_can_come_back" => faults::lost(&bed).await,
        _ => unreachable!("{name}"),
    }
}
