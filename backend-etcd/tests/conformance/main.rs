//! The conformance suite over etcd, one node and three.

mod harness;
mod resource;

use std::process::ExitCode;
use std::sync::Arc;

use harness::EtcdHarness;
use lease_conformance::{Suite, actor_main, run};

fn main() -> ExitCode {
    match EtcdHarness::of_this_process() {
        Some(harness) => actor_main(Arc::new(harness)),
        None => run([1, 3]
            .map(|nodes| Suite { harness: Arc::new(EtcdHarness::start(nodes)), ignored: IGNORED })
            .into()),
    }
}

const IGNORED: &[&str] = &[
    // An etcd can lose its registers, so nobody but `init` creates them (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    // It offers all of these.
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
];
