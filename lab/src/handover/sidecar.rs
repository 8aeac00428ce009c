//! A sidecar's hand-over: from SIGTERM, or an operator's revocation, to the first reservation that the successor makes.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lease_spendguard::rpc::ledger::v1::ledger_client::LedgerClient;
use lease_spendguard::rpc::ledger::v1::{
    AcquireFencingLeaseRequest, Fence, ReleaseFencingLeaseRequest, ReserveRequest, RevokeFencingLeaseRequest,
    acquire_fencing_lease_response, reservation_response,
};
use lease_testbed::{Folder, Postgres, PostgresOptions, Process, Signal, field};
use serde_json::json;
use tonic::transport::Channel;

use super::{LIMIT, Report, TTL};
use crate::drill::load::TENANT;
use crate::drill::pods::{PATIENCE, binary};

const SERVED: &str = "served";
const BARE: &str = "bare";

pub(super) async fn run(times: u64) -> anyhow::Result<Report> {
    let folder = Folder::new("handover")?;
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let url = postgres.create_database("ledger").await?;
    let first = ["--migrate", "--add-scope", SERVED, TENANT, "--add-scope", BARE, TENANT];
    let first = [&first[..], &["--set-budget", TENANT, "EUR", "1000000"]].concat();
    let prepared = worker("ledger", &[&["--ledger-db-url", &url], &first[..]].concat())?;
    ensure!(prepared.wait(PATIENCE).await?.success(), "{}", prepared.lines().join("\n"));
    let pages = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
    let ledger = worker("ledger", &[&["--ledger-db-url", &url], &pages[..]].concat())?;
    let started = ledger.wait_for_line("ledger started", PATIENCE).await?;
    let grpc = field(&started, "grpc")?;
    let grpc = format!("http://{grpc}");
    let mut bare = Bare::new(&grpc).await?;
    // Once for the statements.
    bare.run(false).await?;

    let mut active = Sidecar::start(folder.path(), &grpc, 0)?;
    active.process.wait_for_line("serving socket=", PATIENCE).await?;
    let (mut hand_overs, mut bares) = (Vec::new(), Vec::new());
    for time in 1..=times {
        let next = Sidecar::start(folder.path(), &grpc, time)?;
        next.process.wait_for_line("standing by", PATIENCE).await?;
        // Its wait at the ledger begins a moment after it has said so.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let revoked = time % 2 == 0;
        bares.push(bare.run(revoked).await?);

        let start = Instant::now();
        if revoked {
            bare.revoke(SERVED).await?;
        } else {
            active.process.signal(Signal::TERM)?;
        }
        next.first_reservation(time).await?;
        hand_overs.push(start.elapsed());
        if revoked {
            // It stands by now; the next round has a standby of its own.
            active.process.kill().await?;
        } else {
            let status = active.process.wait(LIMIT).await?;
            ensure!(status.success(), "the old sidecar ended with {status}");
        }
        active = next;
    }
    Ok(Report::new(hand_overs, bares, Default::default(), None))
}

fn worker(role: &str, args: &[&str]) -> anyhow::Result<Process> {
    Process::command(binary()?)?.env_clear().args(["worker", role]).args(args).spawn()
}

struct Sidecar {
    process: Process,
    socket: PathBuf,
    client: reqwest::Client,
}

impl Sidecar {
    fn start(folder: &Path, grpc: &str, number: u64) -> anyhow::Result<Self> {
        let socket = folder.join(format!("{number}.sock"));
        let (name, ttl) = (format!("sidecar-{number}"), TTL.as_secs().to_string());
        let path = socket.display().to_string();
        let args =
            ["--listen", "127.0.0.1:0", "--workload-id", &name, "--ledger-url", grpc, "--socket", &path];
        let scope = ["--fencing-scope", SERVED, "--tenant", TENANT, "--fencing-ttl-seconds", &ttl];
        let process = worker("sidecar", &[&args[..], &scope, &["--standby", "true"]].concat())?;
        // Chooses the process's provider of TLS, without which there is no client.
        lease_worker_common::http_client(PATIENCE)?;
        let client = reqwest::Client::builder().unix_socket(socket.clone()).timeout(LIMIT).build()?;
        Ok(Self { process, socket, client })
    }

    /// It binds its socket only when it holds the scope.
    async fn first_reservation(&self, number: u64) -> anyhow::Result<()> {
        let (socket, limit) = (self.socket.clone(), Instant::now() + LIMIT);
        let bound = tokio::task::spawn_blocking(move || {
            while UnixStream::connect(&socket).is_err() {
                ensure!(Instant::now() < limit, "nobody serves {}", socket.display());
                std::thread::sleep(Duration::from_micros(200));
            }
            anyhow::Ok(())
        });
        bound.await??;
        let body = json!({"tenant": TENANT, "amount_minor": 1, "currency": "EUR", "ttl_seconds": 600,
            "idempotency_key": format!("served-{number}")});
        let answer = self.client.post("http://sidecar/v1/reservations").json(&body).send().await?;
        ensure!(answer.status() == 201, "{}: {}", answer.status(), answer.text().await?);
        Ok(())
    }
}

/// The commits that a hand-over needs, by a client that does nothing else.
struct Bare {
    client: LedgerClient<Channel>,
    number: u64,
    term: Option<Fence>,
}

impl Bare {
    async fn new(grpc: &str) -> anyhow::Result<Self> {
        let client = LedgerClient::connect(grpc.to_owned()).await?;
        Ok(Self { client, number: 0, term: None })
    }

    /// The old term's end, the new one's beginning, a reservation in it.
    async fn run(&mut self, revoke: bool) -> anyhow::Result<Duration> {
        self.number += 1;
        let start = Instant::now();
        match self.term.take() {
            Some(_) if revoke => self.revoke(BARE).await?,
            Some(fence) => {
                let request = ReleaseFencingLeaseRequest { fence: Some(fence) };
                self.client.release_fencing_lease(request).await?;
            }
            None => {}
        }
        let (scope, tenant, instance) = (BARE.to_owned(), TENANT.to_owned(), "bare".to_owned());
        let request = AcquireFencingLeaseRequest {
            fencing_scope_id: scope.clone(),
            tenant_id: tenant.clone(),
            workload_instance_id: instance.clone(),
            ttl_seconds: TTL.as_secs() as u32,
            force: false,
            audit_event_id: format!("bare-{}", self.number),
            grant: Vec::new(),
        };
        let answer = self.client.acquire_fencing_lease(request).await?.into_inner().outcome;
        let Some(acquire_fencing_lease_response::Outcome::Success(won)) = answer else {
            anyhow::bail!("the bare client's acquisition: {answer:?}");
        };
        let fence = Fence {
            fencing_scope_id: scope,
            tenant_id: tenant,
            workload_instance_id: instance,
            epoch: won.epoch,
            grant: won.grant,
        };
        let request = ReserveRequest {
            fence: Some(fence.clone()),
            idempotency_key: format!("bare-{}", self.number),
            amount_minor: 1,
            currency: "EUR".to_owned(),
            ttl_seconds: 600,
            request_id: String::new(),
        };
        let answer = self.client.reserve(request).await?.into_inner().outcome.context("no outcome")?;
        let made = matches!(answer, reservation_response::Outcome::Reservation(_));
        ensure!(made, "the bare client's reservation: {answer:?}");
        self.term = Some(fence);
        Ok(start.elapsed())
    }

    async fn revoke(&mut self, scope: &str) -> anyhow::Result<()> {
        let (fencing_scope_id, tenant_id) = (scope.to_owned(), TENANT.to_owned());
        let request = RevokeFencingLeaseRequest { fencing_scope_id, tenant_id, by: "hand-over".to_owned() };
        self.client.revoke_fencing_lease(request).await?;
        Ok(())
    }
}
