//! A role that is named wrongly, or not at all.

use crate::common::{Leasehold, ran};

#[test]
fn a_role_that_does_not_exist_is_refused_with_those_that_do() {
    let leasehold = Leasehold::sqlite();
    for args in [&[][..], &["worker"], &["worker", "canonical-ingest"]] {
        let mut command = leasehold.command(args);
        let refused = ran(command.env("LEASEHOLD_ROLE", "outbox-forwader"));
        refused.refused(&[
            "LEASEHOLD_ROLE = \"outbox-forwader\" is not allowed",
            "use one of outbox-forwarder, canonical-ingest, ledger, sidecar, ttl-sweeper",
        ]);
    }
    leasehold.run(&["worker"]).refused(&["worker.role is not set", "LEASEHOLD_ROLE", "canonical-ingest"]);
    leasehold.run::<&str>(&[]).refused(&["name a command", "LEASEHOLD_ROLE", "leasehold --help"]);
    assert_eq!(leasehold.files(), Vec::<String>::new());
}
