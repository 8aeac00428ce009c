//! Probes of a container, by HTTP.

use std::{convert::Infallible, net::Ipv4Addr, time::Duration};

use anyhow::{Context, anyhow, bail};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// The period until a readiness probe has succeeded for the first time; a kubelet would wait for the probe's own.
const EAGER: Duration = Duration::from_millis(200);

/// A result of a readiness probe.
pub(crate) enum Readiness {
    Ready,
    Unready,
    /// A probe failed, and why.
    Failed(String),
}

/// Probes for as long as the container is to live; returns why it is to be killed.
pub(crate) async fn attend(
    container: &Container,
    ip: Ipv4Addr,
    tell: &(impl Fn(Readiness) + Sync),
) -> String {
    tokio::select! {
        reason = live(container, ip) => reason,
        never = ready(container, ip, tell) => match never {},
    }
}

async fn ready(container: &Container, ip: Ipv4Addr, tell: &(impl Fn(Readiness) + Sync)) -> Infallible {
    let Some(probe) = &container.readiness_probe else {
        tell(Readiness::Ready);
        return std::future::pending().await;
    };
    let (mut ready, mut successes, mut failures) = (false, 0, 0);
    loop {
        match once(container, ip, probe).await {
            Ok(()) => (successes, failures) = (successes + 1, 0),
            Err(error) => {
                (successes, failures) = (0, failures + 1);
                tell(Readiness::Failed(format!("{error:#}")));
            }
        }
        let now = if ready {
            failures < probe.failure_threshold.unwrap_or(3)
        } else {
            successes >= probe.success_threshold.unwrap_or(1)
        };
        if now != ready {
            ready = now;
            tell(if ready { Readiness::Ready } else { Readiness::Unready });
        }
        sleep(if ready { period(probe) } else { EAGER.min(period(probe)) }).await;
    }
}

async fn live(container: &Container, ip: Ipv4Addr) -> String {
    let Some(probe) = &container.liveness_probe else { return std::future::pending().await };
    let mut failures = 0;
    loop {
        match once(container, ip, probe).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures >= probe.failure_threshold.unwrap_or(3) {
                    return format!("liveness probe failed: {error:#}");
                }
            }
        }
        sleep(period(probe)).await;
    }
}

async fn once(container: &Container, ip: Ipv4Addr, probe: &Probe) -> anyhow::Result<()> {
    let action = probe.http_get.as_ref().context("a probe without httpGet")?;
    let limit = seconds(probe.timeout_seconds.unwrap_or(1));
    let got = tokio::time::timeout(limit, get(container, ip, action)).await;
    got.unwrap_or_else(|_| Err(anyhow!("no answer within {limit:?}")))
}

async fn get(container: &Container, ip: Ipv4Addr, action: &HTTPGetAction) -> anyhow::Result<()> {
    let (path, port) = (action.path.as_deref().unwrap_or("/"), number(container, &action.port)?);
    let mut stream = TcpStream::connect((ip, port)).await.with_context(|| format!("dial tcp {ip}:{port}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < 4096 && stream.read_buf(&mut answer).await? > 0 {}
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    match status {
        Some(200..400) => Ok(()),
        Some(status) => bail!("HTTP probe failed with statuscode: {status}"),
        None => bail!("no HTTP answer: {line:?}"),
    }
}

fn number(container: &Container, port: &IntOrString) -> anyhow::Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port)
        }
    };
    Ok(number.with_context(|| format!("the container has no port {port:?}"))?.try_into()?)
}

fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds.unwrap_or(10))
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(seconds.max(1).unsigned_abs().into())
}
