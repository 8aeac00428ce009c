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
/// `awaited` is a statement that is to become true, as in `"the standby has replayed the row"`.
///
/// # Errors
/// When `limit` has passed first; the message has `awaited`. A poll that is still under way then is dropped.
///
/// Cancel-safe: dropping the future drops the present poll.
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
pub async fn wait_until<F, Fut>(awaited: &str, limit: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let poll = || {
        let holds = condition();
        async move { if holds.await { Ok(()) } else { Err(String::new()) } }
    };
    poll_for(awaited, limit, poll).await
}

/// Repeats `attempt` every 10 ms until it succeeds, and returns what it yields.
///
/// # Errors
/// When `limit` has passed first; the message has `awaited` and the last attempt's error. An attempt that is still under
/// way then is dropped.
pub async fn wait_for<T, E, F, Fut>(awaited: &str, limit: Duration, mut attempt: F) -> anyhow::Result<T>
where
    E: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let attempt = || {
        let attempt = attempt();
        async move { attempt.await.map_err(|error| format!("; the last attempt: {error:?}")) }
    };
    poll_for(awaited, limit, attempt).await
}

async fn poll_for<T, F, Fut>(awaited: &str, limit: Duration, mut attempt: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let mut last = String::from("; the first attempt did not end");
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if start.elapsed() >= limit {
            bail!("timed out after {limit:?} waiting for: {awaited}{last}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
