//! Probes of a container, and its hooks.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, anyhow, bail};
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use super::container::Running;

/// Before a probe has succeeded for the first time: a kubelet would wait for the whole period.
const EAGER: Duration = Duration::from_millis(200);

/// Who is probed.
pub(super) struct Target<'a> {
    pub(super) container: &'a Container,
    pub(super) running: &'a Running,
    pub(super) ip: Ipv4Addr,
}

/// What probing tells.
pub(super) enum Told {
    /// The startup probe has succeeded, or there is none.
    Started,
    Ready(bool),
    /// A readiness probe failed, and why.
    Unready(String),
}

/// Probes for as long as the container is to live; returns why it is to be killed.
pub(super) async fn attend(target: &Target<'_>, tell: &(impl Fn(Told) + Sync)) -> String {
    if let Some(probe) = &target.container.startup_probe
        && let Err(error) = until_success(target, probe).await
    {
        return format!("startup probe failed: {error:#}");
    }
    tell(Told::Started);
    let (_, reason) = tokio::join!(ready(target, tell), live(target));
    reason
}

/// A probe that is to fail or succeed once.
async fn until_success(target: &Target<'_>, probe: &Probe) -> anyhow::Result<()> {
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (period, limit) = (period(probe), probe.failure_threshold.unwrap_or(3).max(1).unsigned_abs());
    let end = Instant::now() + period * limit;
    loop {
        match once(target, probe).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => sleep(EAGER.min(period)).await,
        }
    }
}

async fn ready(target: &Target<'_>, tell: &(impl Fn(Told) + Sync)) {
    let Some(probe) = &target.container.readiness_probe else {
        return tell(Told::Ready(true));
    };
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (mut ready, mut successes, mut failures) = (false, 0, 0);
    loop {
        match once(target, probe).await {
            Ok(()) => (successes, failures) = (successes + 1, 0),
            Err(error) => {
                (successes, failures) = (0, failures + 1);
                tell(Told::Unready(format!("Readiness probe failed: {error:#}")));
            }
        }
        let now = if ready {
            failures < probe.failure_threshold.unwrap_or(3)
        } else {
            successes >= probe.success_threshold.unwrap_or(1)
        };
        if now != ready {
            ready = now;
            tell(Told::Ready(ready));
        }
        sleep(if ready { period(probe) } else { EAGER.min(period(probe)) }).await;
    }
}

async fn live(target: &Target<'_>) -> String {
    let Some(probe) = &target.container.liveness_probe else {
        return std::future::pending().await;
    };
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut failures = 0;
    loop {
        match once(target, probe).await {
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

/// Why a container's probes and hooks can't be offered.
pub(super) fn check(container: &Container) -> anyhow::Result<()> {
    let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
    for probe in probes.into_iter().flatten() {
        if probe.grpc.is_some() {
            bail!("grpc probes are not offered here: use httpGet, tcpSocket or exec");
        }
        if probe.http_get.as_ref().and_then(|get| get.scheme.as_deref()) == Some("HTTPS") {
            bail!("probes by HTTPS are not offered here: use HTTP, tcpSocket or exec");
        }
    }
    Ok(())
}

/// Runs a preStop or postStart hook.
pub(super) async fn hook(
    target: &Target<'_>,
    hook: &LifecycleHandler,
    limit: Duration,
) -> anyhow::Result<()> {
    if let Some(rest) = &hook.sleep {
        sleep(Duration::from_secs(rest.seconds.max(0).unsigned_abs()).min(limit)).await;
    }
    act(target, hook.exec.as_ref(), hook.http_get.as_ref(), None, limit).await
}

async fn once(target: &Target<'_>, probe: &Probe) -> anyhow::Result<()> {
    let port = probe.tcp_socket.as_ref().map(|socket| (socket.host.as_deref(), &socket.port));
    let limit = seconds(probe.timeout_seconds, 1);
    act(target, probe.exec.as_ref(), probe.http_get.as_ref(), port, limit).await
}

async fn act(
    target: &Target<'_>,
    exec: Option<&ExecAction>,
    http: Option<&HTTPGetAction>,
    tcp: Option<(Option<&str>, &IntOrString)>,
    limit: Duration,
) -> anyhow::Result<()> {
    let action = async {
        if let Some(exec) = exec {
            return target.running.exec(exec.command.as_deref().unwrap_or_default(), limit).await;
        }
        let (host, port) = match (http, tcp) {
            (Some(get), _) => (get.host.as_deref(), &get.port),
            (_, Some(tcp)) => tcp,
            _ => return Ok(()),
        };
        let ip = target.ip.to_string();
        let (host, port) = (host.unwrap_or(&ip), number(target.container, port)?);
        let stream =
            TcpStream::connect((host, port)).await.with_context(|| format!("dial tcp {host}:{port}"))?;
        match http {
            Some(http) => get(stream, http, &format!("{host}:{port}")).await,
            None => Ok(()),
        }
    };
    tokio::time::timeout(limit, action).await.unwrap_or_else(|_| Err(anyhow!("no answer within {limit:?}")))
}

async fn get(mut stream: TcpStream, action: &HTTPGetAction, host: &str) -> anyhow::Result<()> {
    let path = action.path.as_deref().unwrap_or("/");
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\nUser-Agent: kube-probe/1.36\r\n");
    let headers = action.http_headers.iter().flatten();
    let named = headers.clone().any(|header| header.name.eq_ignore_ascii_case("host"));
    if !named {
        request += &format!("Host: {host}\r\n");
    }
    for header in headers {
        request += &format!("{}: {}\r\n", header.name, header.value);
    }
    stream.write_all((request + "\r\n").as_bytes()).await?;
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
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.with_context(|| format!("the container has no port {port:?}"))?;
    Ok(u16::try_from(number)?)
}

fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds.filter(|period| *period > 0), 10)
}

fn seconds(said: Option<i32>, otherwise: u64) -> Duration {
    Duration::from_secs(said.map_or(otherwise, |said| said.max(0).unsigned_abs().into()))
}
