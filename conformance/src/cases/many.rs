//! A store with as many registers as a large fleet has.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseName};

use crate::case::{Need, cases};
use crate::context::{Cx, written};

cases! { "many":
    registers_are_all_listed needs [Need::List],
}

const CONNECTIONS: usize = 8;

/// In time: within the patience of every call. How many they are is the harness's to say.
async fn registers_are_all_listed(cx: Arc<Cx>) -> anyhow::Result<()> {
    // Other cases list and watch the same store: where there can be one apart, they go there.
    let cx = cx.on(cx.harness.isolated().await.unwrap_or(cx.harness.clone()));
    let names = (0..cx.harness.many()).map(|index| Ok(cx.lease_named(&format!("{index:05}"))));
    let names: Vec<LeaseName> = names.collect::<anyhow::Result<_>>()?;
    // None of them was ever there, so each absence is as good as the next.
    let absent = cx.harness.connect().await?.observe(&cx.lease()).await?;
    let create = async |names: &[LeaseName]| {
        let backend = cx.harness.connect().await?;
        for name in names {
            let new = writes::init(&absent, cx.ttl(), 0, None, &Fresh::random());
            written(backend.put_if(name, &absent, &new, Change::Init).await?)?;
        }
        anyhow::Ok(())
    };
    try_join_all(names.chunks(names.len().div_ceil(CONNECTIONS)).map(create)).await?;
    let backend = cx.harness.connect().await?;
    for (prefix, expected) in [("", &names[..]), ("00", &names[..names.len().min(1000)])] {
        let prefix = format!("{}-{prefix}", cx.prefix());
        let mut listed = cx.soon("the whole list", backend.list(&prefix)).await??;
        listed.sort_by(|(one, _), (other, _)| one.cmp(other));
        if listed.len() != expected.len() {
            bail!("the list of {prefix:?} shows {} registers of {}", listed.len(), expected.len());
        }
        for ((name, seen), expected) in listed.into_iter().zip(expected) {
            ensure!(name == *expected, "the list of {prefix:?} shows {name}, and not {expected}");
            let seen = seen.with_context(|| format!("{name} can't be read in a list of {}", names.len()))?;
            ensure!(seen.record.is_some(), "{name} is listed as absent");
        }
    }
    Ok(())
}
