//! The faults, their victims and their times. The seed determines them, as far as the timing of processes allows.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::installation::{Installation, Seat};

/// The faults so far, in words.
type Done = Vec<&'static str>;

/// All faults, until there were enough.
pub(super) async fn happen(
    installation: &Installation,
    seed: u64,
    enough: &CancellationToken,
) -> anyhow::Result<Done> {
    let random = |part: u64| StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(part));
    let (forwarder, sweeper, scope, below) = tokio::join!(
        ending(holders(installation, Seat::Forwarder, random(1), enough), enough),
        ending(holders(installation, Seat::Sweeper, random(2), enough), enough),
        ending(holders(installation, Seat::Scope, random(3), enough), enough),
        ending(foundations(installation, random(4), enough), enough),
    );
    Ok([forwarder?, sweeper?, scope?, below?].concat())
}

/// When one part fails the others end too.
async fn ending(
    part: impl Future<Output = anyhow::Result<Done>>,
    enough: &CancellationToken,
) -> anyhow::Result<Done> {
    let done = part.await;
    if done.is_err() {
        enough.cancel();
    }
    done
}

/// Leaves everybody alone for a while. False: there were enough.
async fn calm(random: &mut StdRng, millis: std::ops::Range<u64>, enough: &CancellationToken) -> bool {
    let pause = Duration::from_millis(random.random_range(millis));
    enough.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
}

/// Whoever holds it, again and again.
async fn holders(
    installation: &Installation,
    seat: Seat,
    mut random: StdRng,
    enough: &CancellationToken,
) -> anyhow::Result<Done> {
    let mut done = Done::new();
    // The first is a revocation, so that short runs have it too: its holder doesn't know at once, and writes on.
    let mut first = seat == Seat::Scope;
    while calm(&mut random, 50..400, enough).await {
        // No answer while Postgres is down.
        let Ok(Some((holder, epoch))) = installation.holder(seat).await else { continue };
        let another = random.random();
        let what = match if first { 0 } else { random.random_range(0..16) } {
            0..2 if seat == Seat::Scope => {
                // Postgres may be down at this moment.
                if installation.revoke_scope().await.is_err() {
                    continue;
                }
                first = false;
                "revoked"
            }
            2..7 => {
                holder.stop().await?;
                holder.start(another).await?;
                "SIGTERM"
            }
            7..11 => {
                holder.kill().await?;
                holder.start(another).await?;
                "SIGKILL"
            }
            11..13 => {
                holder.pause().await?;
                succeeded(installation, seat, epoch).await;
                holder.resume()?;
                "SIGSTOP past the ttl"
            }
            13..15 => {
                holder.stall();
                succeeded(installation, seat, epoch).await;
                holder.heal();
                "half-open past the ttl"
            }
            _ => {
                holder.cut().await;
                "connections cut"
            }
        };
        done.push(what);
    }
    Ok(done)
}

/// Waits until somebody else's term has begun, for as long as that can take.
async fn succeeded(installation: &Installation, seat: Seat, epoch: i64) {
    let limit = installation.ttl * 3 + Duration::from_secs(3);
    let began = Instant::now();
    while began.elapsed() < limit {
        if matches!(installation.holder(seat).await, Ok(Some((_, now))) if now > epoch) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The servers that all others need: Postgres, ledgers, ingests.
async fn foundations(
    installation: &Installation,
    mut random: StdRng,
    enough: &CancellationToken,
) -> anyhow::Result<Done> {
    let mut done = Done::new();
    let mut turn = 0;
    while calm(&mut random, 500..3_000, enough).await {
        turn += 1;
        let one = usize::from(random.random::<bool>());
        // The first is the crash, so that short runs have it too.
        let what = match if turn == 1 { 0 } else { random.random_range(0..8) } {
            0 => {
                installation.postgres.crash().await?;
                installation.postgres.start_again().await?;
                "SIGKILL of Postgres"
            }
            1..3 => {
                installation.ledgers[one].kill().await?;
                installation.ledgers[one].start(false).await?;
                "SIGKILL of a ledger"
            }
            3 => {
                installation.ledgers[one].stop().await?;
                installation.ledgers[one].start(false).await?;
                "SIGTERM of a ledger"
            }
            4..6 => {
                installation.ingests[one].kill().await?;
                installation.ingests[one].start(false).await?;
                "SIGKILL of an ingest"
            }
            6 => {
                installation.ledgers[one].cut().await;
                "a ledger's connections cut"
            }
            _ => {
                installation.ingests[one].cut().await;
                "an ingest's connections cut"
            }
        };
        done.push(what);
    }
    Ok(done)
}
