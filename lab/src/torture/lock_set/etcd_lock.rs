//! A worker that trusts etcd's own lock, as etcd's clients offer it: a session, which is an etcd lease that is kept
//! alive, and the `Lock` call over it. It asks before each update whether its session lives, by its own clock and from
//! the sending of the last keep-alive that was answered: stricter than etcd's Go client, which hears of a lost session
//! by the server's answer or up to half a second late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use lease_core::{Clock, Grant, Instant, Term};
use lease_etcd::etcd_client::{Client, LockOptions};
use lease_judge::actor::Orders;
use lease_judge::history::{Outcome, What};
use lease_judge::{EffectError, FencedResource, Recorder};
use lease_stores::Place;
use lease_stores::etcd::EtcdPlace;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::set::UpdatedSet;

/// The pause after a call that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Carries out this process's orders until SIGTERM, and unlocks.
pub(super) async fn work(place: EtcdPlace) -> anyhow::Result<()> {
    let orders = Orders::of_this_process()?;
    let trace = orders.trace.as_deref().context("a worker needs a file for its history")?;
    let (recorder, asked) = (Recorder::appending(trace)?, CancellationToken::new());
    let (mut terminate, ended) = (signal(SignalKind::terminate())?, asked.clone());
    tokio::spawn(async move {
        terminate.recv().await;
        ended.cancel();
    });
    let resource = &orders.effects.as_ref().context("a worker updates a set")?.resource;
    let set = UpdatedSet::new(Place::Etcd(place.clone()).resource(resource).await?);
    let worker = Worker { client: place.client().await?, set, recorder, asked, orders };
    worker.tell(What::Campaigning { ttl_ms: worker.orders.ttl_ms, poll_ms: worker.orders.ttl_ms });
    let mut number = 0;
    while !worker.asked.is_cancelled() {
        // A session that was lost is followed by another one, as its users do.
        if let Err(error) = worker.hold_once(&mut number).await {
            eprintln!("the lock was not held to the end: {error:#}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
    worker.tell(What::Left);
    Ok(())
}

struct Worker {
    client: Client,
    set: UpdatedSet,
    recorder: Recorder,
    /// SIGTERM has come.
    asked: CancellationToken,
    orders: Orders,
}

impl Worker {
    fn tell(&self, what: What) {
        self.recorder.record(&self.orders.lease, now(), &self.orders.actor, what);
    }

    /// One session: waits for the lock, and updates the set while the session lives.
    async fn hold_once(&self, number: &mut u64) -> anyhow::Result<()> {
        let mut client = self.client.clone();
        let mut session = Session::open(&client, Duration::from_millis(self.orders.ttl_ms)).await?;
        let options = LockOptions::new().with_lease(session.lease);
        let locked = tokio::select! {
            locked = client.lock(format!("/torture/{}", self.orders.lease), Some(options)) => locked?,
            _ = &mut session.kept_alive => return Ok(()),
            () = self.asked.cancelled() => {
                client.lease_revoke(session.lease).await?;
                return Ok(());
            }
        };
        let key = client.get(locked.key(), None).await?;
        let revision = key.kvs().first().context("the lock is lost already")?.create_revision();
        let term =
            Term { epoch: revision.try_into()?, grant: Grant(u128::from(session.lease.unsigned_abs())) };
        self.tell(What::Begun { term, deadline: session.lives_until() });
        while session.lives_until() > now() && !self.asked.is_cancelled() {
            self.update(term, number).await;
        }
        self.tell(What::WorkReturned);
        client.unlock(locked.key()).await?;
        client.lease_revoke(session.lease).await?;
        Ok(())
    }

    async fn update(&self, term: Term, number: &mut u64) {
        *number += 1;
        let effects = self.orders.effects.as_ref().expect("looked at above");
        let (sent, id) = (now(), format!("{}/{number}", self.orders.actor));
        let outcome = match self.set.effect(term, &id).await {
            Ok(()) => Outcome::Written,
            Err(EffectError::Stale(_) | EffectError::AboveCeiling(_)) => Outcome::Refused,
            Err(EffectError::Failed(error)) => Outcome::Failed(error),
        };
        self.tell(What::Effect { resource: effects.resource.clone(), id, term, sent, outcome });
        tokio::time::sleep(Duration::from_millis(effects.every_ms.unwrap_or_default())).await;
    }
}

/// An etcd lease that is kept alive.
struct Session {
    lease: i64,
    lives_until: Arc<AtomicU64>,
    /// Ends when the session is lost.
    kept_alive: JoinHandle<anyhow::Result<()>>,
}

impl Session {
    async fn open(client: &Client, ttl: Duration) -> anyhow::Result<Self> {
        let (mut client, sent) = (client.clone(), now());
        let granted = client.lease_grant(ttl.as_secs().try_into()?, None).await?;
        let (mut keeper, mut answers) = client.lease_keep_alive(granted.id()).await?;
        let lives_until = Arc::new(AtomicU64::new(sent.plus(ttl).0));
        let until = lives_until.clone();
        let kept_alive = tokio::spawn(async move {
            loop {
                let sent = now();
                keeper.keep_alive().await?;
                let answer = answers.message().await?.context("the stream has ended")?;
                ensure!(answer.ttl() > 0, "the lease has expired");
                until.store(sent.plus(ttl).0, Ordering::SeqCst);
                tokio::time::sleep(ttl / 3).await;
            }
        });
        Ok(Self { lease: granted.id(), lives_until, kept_alive })
    }

    fn lives_until(&self) -> Instant {
        Instant(self.lives_until.load(Ordering::SeqCst))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kept_alive.abort();
    }
}

fn now() -> Instant {
    Clock::boot().now()
}
