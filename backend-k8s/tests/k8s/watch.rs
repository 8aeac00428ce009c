//! Watches: their hints, and their end.

use futures::StreamExt;
use lease_core::{Hint, Hints, LeaseBackend};
use lease_testbed::Proxy;

use crate::common::*;

async fn next(hints: &mut Hints) -> anyhow::Result<Option<Hint>> {
    Ok(tokio::time::timeout(LIMIT, hints.next()).await?)
}

#[tokio::test]
async fn shows_each_write_as_it_was_answered_and_hints_at_a_deletion() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("watched"));
    let free = init(&store.backend, &lease).await?;
    let mut hints = store.backend.watch("watched").await?;
    init(&store.backend, &name("watched-too")).await?;
    let held = acquire(&store.backend, &lease, &free, "a").await?;
    assert_eq!(next(&mut hints).await?, Some(Hint::Shows(lease.clone(), held.clone())));
    let beat = renew(&store.backend, &lease, &held).await?;
    let released = release(&store.backend, &lease, &beat).await?;
    assert_eq!(next(&mut hints).await?, Some(Hint::Shows(lease.clone(), beat)));
    let Some(Hint::Shows(_, shown)) = next(&mut hints).await? else { panic!("a release is shown") };
    assert_eq!(shown, released);
    // Fit for a write, with no look between.
    acquire(&store.backend, &lease, &shown, "b").await?;
    assert!(matches!(next(&mut hints).await?, Some(Hint::Shows(..))));
    store.delete(&lease).await?;
    assert_eq!(next(&mut hints).await?, Some(Hint::Changed));
    Ok(())
}

#[tokio::test]
async fn a_prefix_that_is_no_name_watches_the_whole_namespace() -> anyhow::Result<()> {
    let store = store().await?;
    let mut hints = store.backend.watch("some-").await?;
    init(&store.backend, &name("other")).await?;
    let seen = init(&store.backend, &name("some-one")).await?;
    let Some(Hint::Shows(shown, _)) = next(&mut hints).await? else { panic!("a creation is shown") };
    assert_eq!(shown, name("some-one"));
    let Some(Hint::Shows(_, stamped)) = next(&mut hints).await? else { panic!("its stamp is shown") };
    assert_eq!(stamped, seen);
    Ok(())
}

#[tokio::test]
async fn ends_with_its_connection_and_is_opened_anew_also_after_a_compaction() -> anyhow::Result<()> {
    let (store, lease) = (store().await?, name("compacted"));
    let proxy = Proxy::tcp(plane().await.addr())?;
    let backend = connect(&store.identity.kubeconfig_through(proxy.addr())?).await?;
    let mut seen = held(&backend, &lease).await?;
    let mut hints = backend.watch(lease.as_str()).await?;
    seen = renew(&store.backend, &lease, &seen).await?;
    assert!(matches!(next(&mut hints).await?, Some(Hint::Shows(..))));
    proxy.cut().await;
    assert_eq!(next(&mut hints).await?, None, "whoever waits must know that the watch is down");
    seen = renew(&store.backend, &lease, &seen).await?;
    plane().await.etcd().ctl(&["compact", &seen.floor.to_string()]).await?;
    let mut hints = backend.watch(lease.as_str()).await?;
    let beat = renew(&store.backend, &lease, &seen).await?;
    assert_eq!(next(&mut hints).await?, Some(Hint::Shows(lease, beat)));
    Ok(())
}
