//! The conformance suite over Kubernetes, under the least RBAC; its audit log is judged at the end.

mod audit;
mod harness;
#[path = "../../../backend-sqlite/tests/conformance/resource.rs"]
mod resource;

use std::process::ExitCode;
use std::sync::Arc;

use harness::K8sHarness;
use lease_conformance::{Suite, actor_main, run};

fn main() -> ExitCode {
    if let Some(harness) = K8sHarness::of_this_process() {
        return actor_main(Arc::new(harness));
    }
    let harness = Arc::new(K8sHarness::start());
    let ran = run(vec![Suite { harness: harness.clone(), ignored: IGNORED }]);
    match harness.judge_audit() {
        Ok(requests) => eprintln!("audit log: {requests} requests, all of them within the least RBAC"),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    }
    ran
}

const IGNORED: &[&str] = &[
    // A Lease can be deleted, so nobody but `init` creates one (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    // A Lease has no history that is written with it.
    "history::concurrent_acquisitions_leave_one_row",
    "history::each_change_of_holder_leaves_one_row",
    "history::names_takeovers_also_after_a_release",
    "history::renewals_requests_and_conflicts_leave_none",
    "history::shows_the_newest_rows_oldest_first",
    "history::tells_the_life_of_an_elector",
    // It offers both of these.
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
];
