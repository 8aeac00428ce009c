//! A store that is down: every method fails in time, with the right certainty, and nothing is taken for absent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use futures::StreamExt;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{BackendError, Certainty, Change, Grant, Hint, Record, Tag};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::context::{Cx, record, written};
use crate::harness::Facility;

const STOP: Need = Need::Facility(Facility::Stop);

cases! { "down":
    every_read_fails_and_shows_nothing needs [STOP],
    a_write_fails_and_says_whether_it_may_happen needs [STOP],
    connecting_fails_and_is_not_refused needs [STOP],
    a_term_does_not_end_before_its_deadline needs [STOP],
    a_watch_goes_on_afterwards_or_ends needs [STOP, Need::Watch],
}

/// A failure that may be over with the next try, of a call that changes nothing.
fn fails<T>(what: &str, answer: Result<T, BackendError>, shown: impl Fn(&T) -> String) -> anyhow::Result<()> {
    match answer {
        Ok(answer) => bail!("the store is down, and {what} shows {}: it must fail", shown(&answer)),
        Err(error) => ensure!(
            error.certainty == Certainty::NotApplied && !error.refused && !error.gone,
            "{what} while the store is down must be `not_applied`, since it changes nothing and may be tried again: \
             {error:?}"
        ),
    }
    Ok(())
}

async fn every_read_fails_and_shows_nothing(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let offered = backend.capabilities();
    cx.harness.stop().await?;
    let (lease, prefix) = (cx.lease(), cx.prefix());
    fails("a read", cx.soon("a read's failure", backend.observe(&lease)).await?, |seen| format!("{seen:?}"))?;
    if offered.list {
        let listed = cx.soon("a list's failure", backend.list(prefix)).await?;
        fails("a list", listed, |all| format!("{} registers", all.len()))?;
    }
    if offered.history {
        let rows = cx.soon("the history's failure", backend.history(&lease, 10)).await?;
        fails("the history", rows, |rows| format!("{} rows", rows.len()))?;
    }
    if offered.watch {
        let hints = cx.soon("a watch's failure", backend.watch(prefix)).await?;
        fails("a watch", hints, |_| "itself live".to_owned())?;
    }
    cx.harness.start_again().await?;
    Ok(())
}

async fn a_write_fails_and_says_whether_it_may_happen(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    cx.harness.stop().await?;
    let next = writes::renew(&held, record(&held)?, &Fresh::random());
    let lease = cx.lease();
    let put = backend.put_if(&lease, &held, &next, Change::Renew);
    let error = match cx.soon("a write's failure", put).await? {
        Ok(outcome) => bail!("the store is down, and a write answers {outcome:?}: it must fail"),
        Err(error) => error,
    };
    ensure!(!error.refused && !error.gone, "it may be tried again: {error:?}");
    cx.harness.start_again().await?;
    let now = cx.backend().await?.observe(&lease).await?;
    let applied = now.tag() == Some(next.tag);
    ensure!(applied || now.record == held.record, "neither as it was nor as it was written: {now:?}");
    ensure!(!applied || error.certainty == Certainty::Unknown, "it was applied after {error:?}");
    Ok(())
}

async fn connecting_fails_and_is_not_refused(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    cx.harness.stop().await?;
    let connected = cx.soon("the failure to connect", cx.harness.connect()).await?;
    fails("connecting", connected, |_| "a connection".to_owned())?;
    cx.harness.start_again().await?;
    cx.soon("a connection", cx.harness.connect()).await??;
    Ok(())
}

/// A read that shows an absence while the store is down ends the term (T-5).
async fn a_term_does_not_end_before_its_deadline(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    cx.init().await?;
    // Long enough for any start, and beats soon after it. A call that hangs is overdue after half of it, and only then
    // does the holder look.
    let spec = ActorSpec {
        ttl: Duration::from_secs(40),
        settings: |builder| {
            builder.renew_every(Duration::from_millis(500)).retry_every(Duration::from_millis(250))
        },
        ..cx.spec("a")
    };
    spec.tap.mute_watch();
    let mut holder = cx.start(spec)?;
    let term = holder.leads().await?;
    cx.harness.stop().await?;
    // It listens soon after its term has begun; a hint of before that is lost.
    let looks = holder.tap.read_count();
    let looked = async {
        while holder.tap.read_count() == looks {
            holder.tap.hint();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    cx.soon("the holder to look", looked).await?;
    cx.harness.start_again().await?;
    let backend = cx.backend().await?;
    let asked = record(&backend.observe(&cx.lease()).await?)?.beat;
    let beats = async {
        loop {
            let seen = backend.observe(&cx.lease()).await?;
            ensure!(term.is_leader_now(), "an outage of the store ended the term {}: {seen:?}", term.term());
            if record(&seen)?.beat > asked {
                return anyhow::Ok(seen);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = cx.soon("a beat after the start", beats).await??;
    ensure!(
        record(&seen)?.term() == Some(term.term()),
        "the beat is of another term than {}: {seen:?}",
        term.term()
    );
    cx.judge().await
}

/// Lost connections and a lost server: a watch that is neither resumed nor ended would never wake anybody again.
async fn a_watch_goes_on_afterwards_or_ends(cx: Arc<Cx>) -> anyhow::Result<()> {
    let cx = cx.on(cx.harness.isolated().await?);
    let (backend, seen) = cx.init().await?;
    let held = cx.acquire(&*backend, &cx.lease(), &seen, "a").await?;
    let watcher = cx.harness.connect().await?;
    let mut hints = cx.soon("the watch to be live", watcher.watch(cx.lease().as_str())).await??;
    cx.harness.stop().await?;
    cx.harness.start_again().await?;
    let backend = cx.backend().await?;
    let last = written(cx.release(&*backend, &cx.lease(), &held).await?)?;
    // What was written before may be shown first; then the release, or the end.
    loop {
        match cx.soon("a hint, or the end of a watch whose store was down", hints.next()).await? {
            None => return Ok(()),
            Some(Hint::Shows(_, shown)) if shown.tag() != last.tag() => {}
            Some(_) => break,
        }
    }
    let asked = Record { tag: Tag::random(), grant: Some(Grant::random()), ..record(&last)?.clone() };
    written(backend.put_if(&cx.lease(), &last, &asked, Change::Revoke).await?)?;
    cx.soon("a further hint", hints.next()).await?;
    Ok(())
}
