//! A future dropped at any await leaves nothing behind: no lock, no half-written register, no broken connection (U-4).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::ensure;
use lease_core::internal::writes::{self, Fresh};
use lease_core::{Change, LeaseBackend, Observation};

use crate::case::cases;
use crate::check::same;
use crate::context::{Cx, candidate, record, written};

cases! { "cancellation":
    a_write_dropped_at_every_await_leaves_nothing_behind,
    a_read_dropped_at_every_await_leaves_nothing_behind,
    an_acquisition_dropped_at_every_await_is_whole_or_absent,
    connecting_dropped_at_every_await_leaves_nothing_behind,
}

/// Polls `future` `polls` times, waiting for its wake-ups in between, and drops it. `Some` if it had ended by then.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    let polled = std::future::poll_fn(|cx: &mut Context<'_>| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll's wake-up isn't waited for: this is where the future is dropped.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    polled.await
}

/// The next read on a connection whose call was dropped. `None` if it says that it is disconnected, which costs an elector
/// a new connection and nothing else.
async fn next_read(cx: &Cx, dropped: &dyn LeaseBackend) -> anyhow::Result<Option<Observation>> {
    let lease = cx.lease();
    match cx.soon("the connection's next read", dropped.observe(&lease)).await? {
        Err(error) if error.disconnected => Ok(None),
        read => Ok(Some(read?)),
    }
}

/// More awaits than any call of a backend has that needn't connect first.
const MOST: usize = 60;

async fn a_write_dropped_at_every_await_leaves_nothing_behind(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (judge, seen) = cx.init().await?;
    cx.acquire(&*judge, &cx.lease(), &seen, "a").await?;
    let mut dropped = cx.backend().await?;
    let mut ended = 0;
    for polls in 0..MOST {
        let seen = judge.observe(&cx.lease()).await?;
        let next = writes::renew(&seen, record(&seen)?, &Fresh::random());
        let lease = cx.lease();
        let put = dropped_after(polls, dropped.put_if(&lease, &seen, &next, Change::Renew)).await;
        ended += usize::from(put.is_some());
        // Somebody else can write at once, whether the dropped write was applied or not, or is on its way.
        let now = cx.soon("another connection's write", async {
            loop {
                let now = judge.observe(&cx.lease()).await?;
                ensure!(
                    now.record == seen.record || now.record.as_ref() == Some(&next),
                    "neither as it was nor as it was written: {:?}",
                    now.record
                );
                if let lease_core::PutOutcome::Written(now) = cx.renew(&*judge, &cx.lease(), &now).await? {
                    return Ok(now);
                }
            }
        });
        let now = now.await??;
        // And so can the connection whose call was dropped.
        match next_read(&cx, &*dropped).await? {
            Some(own) => same("what the connection reads next", &own.record, &now.record)?,
            None => dropped = cx.backend().await?,
        }
        if ended == 3 {
            return Ok(());
        }
    }
    ensure!(ended > 0, "no write ended within {MOST} polls");
    Ok(())
}

async fn a_read_dropped_at_every_await_leaves_nothing_behind(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (judge, seen) = cx.init().await?;
    let mut now = cx.acquire(&*judge, &cx.lease(), &seen, "a").await?;
    let mut dropped = cx.backend().await?;
    let mut ended = 0;
    for polls in 0..MOST {
        let lease = cx.lease();
        ended += usize::from(dropped_after(polls, dropped.observe(&lease)).await.is_some());
        now = cx.soon("a write", cx.renew(&*judge, &lease, &now)).await?.and_then(written)?;
        match next_read(&cx, &*dropped).await? {
            Some(own) => same("what the connection reads next", &own.record, &now.record)?,
            None => dropped = cx.backend().await?,
        }
        if ended == 3 {
            return Ok(());
        }
    }
    ensure!(ended > 0, "no read ended within {MOST} polls");
    Ok(())
}

async fn an_acquisition_dropped_at_every_await_is_whole_or_absent(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (judge, mut seen) = cx.init().await?;
    let mut dropped = cx.backend().await?;
    let mut ended = 0;
    for polls in 0..MOST {
        let fresh = Fresh::random();
        let next = writes::acquire(&seen, record(&seen)?, &candidate("a", cx.ttl()), fresh.grant, &fresh);
        let lease = cx.lease();
        let put = dropped_after(polls, dropped.put_if(&lease, &seen, &next, Change::Acquire)).await;
        ended += usize::from(put.is_some());
        // Settles it: after this acknowledged write the dropped one can't be applied any more.
        let settled = cx.soon("another connection's write", async {
            loop {
                let now = judge.observe(&cx.lease()).await?;
                let fresh = Fresh::random();
                let request = lease_core::Record { tag: fresh.tag, ..record(&now)?.clone() };
                let put = judge.put_if(&cx.lease(), &now, &request, Change::Request).await?;
                if let lease_core::PutOutcome::Written(now) = put {
                    return anyhow::Ok(now);
                }
            }
        });
        seen = settled.await??;
        // So that the next one needn't connect first; that is the last case's.
        match next_read(&cx, &*dropped).await? {
            Some(own) => same("what the connection reads next", &own.record, &seen.record)?,
            None => dropped = cx.backend().await?,
        }
        ensure!(seen.floor >= record(&seen)?.epoch, "a floor below an applied acquisition's epoch: {seen:?}");
        if ended == 3 {
            break;
        }
    }
    ensure!(ended > 0, "no acquisition ended within {MOST} polls");
    if judge.capabilities().history {
        let rows = judge.history(&cx.lease(), 1000).await?;
        let applied = record(&seen)?.transitions;
        ensure!(rows.len() as u64 == applied, "{} rows for {applied} applied acquisitions", rows.len());
    }
    Ok(())
}

/// Opening has some hundred awaits at some stores: then every second or third, so that it is over in time.
async fn connecting_dropped_at_every_await_leaves_nothing_behind(cx: Arc<Cx>) -> anyhow::Result<()> {
    let (judge, mut seen) = cx.init().await?;
    let (mut polls, mut connecting) = (0_usize, pin!(cx.harness.connect()));
    let counted = std::future::poll_fn(|cx| {
        polls += 1;
        connecting.as_mut().poll(cx)
    });
    counted.await?;
    for polls in (0..polls).step_by(polls.div_ceil(MOST)) {
        let _ = dropped_after(polls, cx.harness.connect()).await;
        let next = writes::init(&seen, cx.ttl(), 0, None, &Fresh::random());
        seen = cx
            .soon("a write", judge.put_if(&cx.lease(), &seen, &next, Change::Request))
            .await?
            .map_err(anyhow::Error::from)
            .and_then(written)?;
    }
    cx.soon("a further connection", cx.harness.connect()).await??;
    Ok(())
}
