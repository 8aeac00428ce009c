//! The table of what differs between stores.

use std::process::ExitCode;

use anyhow::anyhow;
use lease_conformance::Description;
use lease_stores::Mode;

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
    // Each is checked by its store's own run of the suite.
    let stores: Result<Vec<_>, _> = Mode::descriptions().into_iter().map(Description::parse).collect();
    let stores = stores.map_err(|error| anyhow!(error))?;
    print!("{HEAD}{}", lease_conformance::table(&stores));
    Ok(ExitCode::SUCCESS)
}
