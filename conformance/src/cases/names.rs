//! Names and prefixes: no two leases share anything, however alike their names are.

use std::sync::Arc;

use anyhow::ensure;
use lease_core::LeaseName;

use crate::case::{Need, cases};
use crate::context::{Cx, conflict, record};

cases! { "names":
    that_are_alike_are_different_registers,
    that_begin_alike_are_listed_by_their_own_prefix needs [Need::List],
    are_listed_letter_for_letter needs [Need::List],
}

/// Names that become one if a store replaces, leaves out, folds or cuts off anything of them; and beginnings of each
/// other.
fn alike(cx: &Cx) -> anyhow::Result<Vec<LeaseName>> {
    let prefix = cx.prefix();
    let room = LeaseName::MAX_LEN - prefix.len() - 4;
    let long = "x".repeat(room);
    let mut names: Vec<String> =
        ["a", "a0", "a-b", "a.b", "a--b", "ab", "a0b", "a2db", "a2eb", "a.b.c", "a-b.c", "a.b-c", "a-b-c"]
            .map(|end| format!("{prefix}-{end}"))
            .to_vec();
    names.extend([format!("{prefix}-{long}-y"), format!("{prefix}-{long}-z")]);
    names.extend([format!("{prefix}.{long}-y"), format!("{prefix}-{}", &long[..60])]);
    names.sort();
    names.into_iter().map(|name| Ok(LeaseName::new(name)?)).collect()
}

async fn that_are_alike_are_different_registers(cx: Arc<Cx>) -> anyhow::Result<()> {
    let backend = cx.backend().await?;
    let mut registers = Vec::new();
    for (index, name) in alike(&cx)?.into_iter().enumerate() {
        let seen = backend.observe(&name).await?;
        ensure!(seen.record.is_none(), "{name} was never created, and reads as {seen:?}");
        let (_, free) = cx.init_named(&name).await?;
        let held = cx.acquire(&*backend, &name, &free, &format!("holder-{index}")).await?;
        registers.push((name, held));
    }
    for (index, (name, held)) in registers.iter().enumerate() {
        let read = backend.observe(name).await?;
        ensure!(read.record == held.record, "{name} reads as {read:?}, and holds {held:?}");
        // An observation of one is no key to another.
        let (next, other) = &registers[(index + 1) % registers.len()];
        conflict(cx.renew(&*backend, name, other).await?)?;
        ensure!(record(other)?.holder != record(held)?.holder, "{name} and {next} have one holder");
    }
    Ok(())
}

async fn that_begin_alike_are_listed_by_their_own_prefix(cx: Arc<Cx>) -> anyhow::Result<()> {
    let names = alike(&cx)?;
    for name in &names {
        cx.init_named(name).await?;
    }
    let backend = cx.backend().await?;
    // Whole names, and beginnings that are no names.
    let beginnings = ["", "-", ".", "-a-", "-a.", "-a.b-", "-xx"].map(|end| format!("{}{end}", cx.prefix()));
    for prefix in names.iter().map(LeaseName::as_str).chain(beginnings.iter().map(String::as_str)) {
        let mut listed: Vec<_> = backend.list(prefix).await?.into_iter().map(|(name, _)| name).collect();
        listed.sort();
        let expected: Vec<_> =
            names.iter().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
        ensure!(listed == expected, "the list of {prefix:?} must show {expected:?}, and shows {listed:?}");
    }
    Ok(())
}

async fn are_listed_letter_for_letter(cx: Arc<Cx>) -> anyhow::Result<()> {
    cx.init().await?;
    let backend = cx.backend().await?;
    let lease = cx.lease();
    let whole = lease.as_str();
    let others = [
        whole.to_uppercase(),
        whole.replace('-', "_"),
        whole.replace('-', "."),
        whole.replace('-', ""),
        whole.replace('e', "%"),
        format!("{whole} "),
        format!(" {whole}"),
        format!("%{}", cx.prefix()),
    ];
    for prefix in others {
        let listed = backend.list(&prefix).await?;
        ensure!(listed.is_empty(), "{prefix:?} begins no name, and its list shows {listed:?}");
    }
    Ok(())
}
