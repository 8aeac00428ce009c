//! Awaiting a condition instead of sleeping.

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::bail;

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Polls `condition` every 10 ms until it is true.
///
/// `what` names what is awaited, as in `"the standby has replayed the row"`.
///
/// # Errors
/// When `limit` has passed first; the message names `what`. A poll that is still under way then is dropped.
///
/// ```
/// # async fn example(standby: &lease_testbed::Postgres) -> anyhow::Result<()> {
/// use std::time::Duration;
/// lease_testbed::wait_until("the row is visible", Duration::from_secs(10), async || {
///     standby.psql("select count(*) from effects").await.is_ok_and(|count| count == "1")
/// })
/// .await?;
/// # Ok(()) }
/// ```
pub async fn wait_until<F, Fut>(what: &str, limit: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    wait_for(what, limit, || {
        let holds = condition();
        async move { if holds.await { Ok(()) } else { Err("it is not so") } }
    })
    .await
}

/// Repeats `attempt` every 10 ms until it succeeds, and returns what it yields.
///
/// # Errors
/// When `limit` has passed first; the message names `what` and has the last attempt's error.
pub async fn wait_for<T, E, F, Fut>(what: &str, limit: Duration, mut attempt: F) -> anyhow::Result<T>
where
    E: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let start = Instant::now();
    let mut last = String::from("the first attempt did not end");
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = format!("{error:?}"),
            Err(_) => {}
        }
        if start.elapsed() >= limit {
            bail!("waited {limit:?} in vain until {what}: {last}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
