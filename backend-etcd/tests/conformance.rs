//! The conformance suite over etcd, one node and three.

use std::process::ExitCode;

use lease_conformance::{Suite, run};
use lease_stores::etcd::EtcdStore;
use lease_stores::{main_or_actor, start};

fn main() -> ExitCode {
    main_or_actor(|| {
        let of = |nodes, ignored| anyhow::Ok(Suite { harness: start(EtcdStore::of_nodes(nodes))?, ignored });
        Ok(run(vec![of(1, ONE_NODE)?, of(3, THREE_NODES)?]))
    })
}

const THREE_NODES: &[&str] = &[
    // An etcd can lose its registers, so nobody but `init` creates them (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    // It offers all of these.
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
    // No fault of ours puts the store's floor back.
    "rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept",
];

const ONE_NODE: &[&str] = &[
    // An etcd can lose its registers, so nobody but `init` creates them (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    // It offers all of these.
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
    // No fault of ours puts the store's floor back.
    "rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept",
    // One node has no others to be cut off from.
    "replicas::a_minority_acknowledges_nothing",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
];
