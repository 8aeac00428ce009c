//! The conformance suite over Kubernetes, under the least RBAC; its audit log is judged at the end.

use std::process::ExitCode;

use lease_conformance::{Suite, run};
use lease_stores::k8s::K8sStore;
use lease_stores::{main_or_actor, start};

fn main() -> ExitCode {
    main_or_actor(|| {
        let store = start(K8sStore::start())?;
        let ran = run(vec![Suite { harness: store.clone(), ignored: IGNORED }]);
        let requests = store.judge_audit()?;
        eprintln!("audit log: {requests} requests, all of them within the least RBAC");
        Ok(ran)
    })
}

const IGNORED: &[&str] = &[
    // A Lease can be deleted, so nobody but `init` creates one (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    // A Lease has no history that is written with it.
    "history::concurrent_acquisitions_leave_one_row",
    "history::each_change_of_holder_leaves_one_row",
    "history::names_takeovers_also_after_a_release",
    "history::renewals_requests_and_conflicts_leave_none",
    "history::shows_the_newest_rows_oldest_first",
    "history::tells_the_life_of_an_elector",
    "deletion::history_goes_on_after_it",
    // It offers both of these.
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
    // The replicas are those of the etcd behind it.
    "replicas::a_minority_acknowledges_nothing",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
    // No fault of ours puts the store's floor back.
    "rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept",
];
