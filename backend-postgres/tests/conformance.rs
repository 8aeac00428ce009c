//! The conformance suite over PostgreSQL.

use std::process::ExitCode;

use lease_conformance::{Suite, run};
use lease_stores::postgres::PostgresStore;
use lease_stores::{main_or_actor, start};

fn main() -> ExitCode {
    main_or_actor(|| Ok(run(vec![Suite { harness: start(PostgresStore::start())?, ignored: IGNORED }])))
}

const IGNORED: &[&str] = &[
    // A Postgres can lose its registers, so nobody but `init` creates them (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    // It offers all of these.
    "history::is_refused_clearly_where_it_is_not_kept",
    "list::is_refused_clearly_where_it_is_not_offered",
    "watch::is_refused_clearly_where_it_is_not_offered",
    // Its one primary has no equals to be cut off from.
    "replicas::a_minority_acknowledges_nothing",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
];
