//! The table of what differs between stores.

use std::process::ExitCode;

use anyhow::anyhow;
use lease_conformance::Description;

/// Each is checked by its store's own run of the suite.
const STORES: [&str; 5] = [
    include_str!("../../../conformance/stores/sqlite.json"),
    include_str!("../../../conformance/stores/postgres.json"),
    include_str!("../../../conformance/stores/etcd-1.json"),
    include_str!("../../../conformance/stores/etcd-3.json"),
    include_str!("../../../conformance/stores/k8s.json"),
];

const HEAD: &str = "\
# What the suite judges, and what legitimately differs

The same cases, by the same ids, are judged on every store. Safety is never a capability: what may differ is what a
store offers besides, and a case that doesn't apply is *ignored, because …*, paired where it can be with one that judges
the refusal. A run whose ignored cases aren't exactly these fails, and so does a run without its server.

This page is made by `leasehold-lab conformance --table > docs/conformance.md` from the data in `conformance/stores/`.
Each store's run of the suite checks its data, and a test that this page is made from them. Against a server that
somebody runs (`leasehold-lab conformance --mode … --url …`) the cases that would have to restart it or fail it over are
left out too, and said so.

";

pub(super) fn print() -> anyhow::Result<ExitCode> {
    let stores: Result<Vec<_>, _> = STORES.iter().map(|json| Description::parse(json)).collect();
    let stores = stores.map_err(|error| anyhow!(error))?;
    print!("{HEAD}{}", lease_conformance::table(&stores));
    Ok(ExitCode::SUCCESS)
}
