//! One small request to a node's plain port for metrics and health.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(10);

/// The body of a 200.
pub(super) async fn get(addr: SocketAddr, path: &str) -> anyhow::Result<String> {
    tokio::time::timeout(LIMIT, exchange(addr, path))
        .await
        .with_context(|| format!("no answer from {addr}{path} within {LIMIT:?}"))?
}

async fn exchange(addr: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(addr).await.with_context(|| format!("cannot connect to {addr}"))?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer that isn't HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        bail!("{addr}{path} answers {status}: {body}");
    }
    Ok(body.to_owned())
}

/// The value of the first sample whose line begins with `name`, which may end in labels.
pub(super) fn sample(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{', ',', '}'])))?;
    line.rsplit_once(' ')?.1.parse().ok()
}
