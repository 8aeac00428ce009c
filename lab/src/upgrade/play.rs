//! One store, one lease, a guard of each version, and the faults of whoever leads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lease_core::{Change, LeaseBackend, LeaseName, PutOutcome, Tag};
use lease_judge::FencedResource;
use lease_judge::history::{Effects, History};
use lease_stores::{Mode, Place};
use lease_testbed::{Process, Signal, wait_for};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::writer;
use crate::drill::pods::binary;
use crate::pause::pause;

pub(super) const LEASE: &str = "upgraded";
pub(super) const OLD_THEN_NEW: &str = "old, then new";
pub(super) const NEW_THEN_OLD: &str = "new, then old";

/// A field of the record that no version knows.
const FIELD: &str = "of_a_later_version";

/// A successor may take this many ttls, and a busy machine.
const PATIENCE: u32 = 20;

/// An operator's command may take this long.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct UpgradeOutcome {
    pub(super) followed: BTreeMap<String, usize>,
    pub(super) faults: BTreeMap<&'static str, usize>,
    pub(super) history: History,
    pub(super) migrated_in_term: bool,
    pub(super) field_is_kept: bool,
}

/// One version: its program, and its guard.
struct Seat {
    version: &'static str,
    program: PathBuf,
    guard: Process,
}

struct Stage {
    place: Place,
    resource: Arc<dyn FencedResource>,
    ttl: Duration,
}

/// The author and the epoch of the newest effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leader {
    version: String,
    epoch: u64,
}

pub(super) async fn play(
    mode: Mode,
    old: &Path,
    ttl: Duration,
    rounds: u64,
    seed: u64,
) -> anyhow::Result<UpgradeOutcome> {
    let store = mode.start().await?;
    let (place, lease) = (store.place(), LeaseName::new(LEASE)?);
    forget_tables(&place).await?;
    let (new, init) = (binary()?, |program: PathBuf, how: &'static [&'static str]| {
        operate(program, place.flags(), [&["init"], how, &[LEASE]].concat())
    });
    init(old.to_owned(), &["--new"]).await.context("the earlier program makes the lease")?;
    let stage = Stage { place: place.clone(), resource: place.resource(LEASE).await?, ttl };
    let mut seats = vec![stage.seat("old", old.to_owned())?];
    let first = stage.leader_after(0, &seats).await?;
    init(new.clone(), &[]).await.context("this program makes the store ready")?;
    let backend = place.connect().await?;
    let migrated_at = stage.resource.effects().await?.len();
    stage.effect_number(migrated_at + 5, &seats).await?;
    let mut played = UpgradeOutcome {
        migrated_in_term: stage.newest().await? == Some(first.clone()),
        ..UpgradeOutcome::default()
    };
    add_field(&*backend, &lease).await?;
    seats.push(stage.seat("new", new)?);

    let (mut random, mut leader) = (StdRng::seed_from_u64(seed), first);
    for _ in 0..rounds {
        tokio::time::sleep(ttl.mul_f64(random.random_range(0.2..1.0))).await;
        let index =
            seats.iter().position(|seat| seat.version == leader.version).context("a stranger leads")?;
        let fault = ["SIGTERM of the guard", "SIGKILL of the guard", "SIGSTOP of the guard past its ttl"]
            [random.random_range(0..3)];
        *played.faults.entry(fault).or_default() += 1;
        let guard = &seats[index].guard;
        if fault.starts_with("SIGSTOP") {
            pause(guard, place.lease_file().as_deref()).await?;
        } else {
            guard.signal(if fault.starts_with("SIGTERM") { Signal::TERM } else { Signal::KILL })?;
        }
        let next = stage.leader_after(leader.epoch, &seats).await?;
        let order = format!("{}, then {}", leader.version, next.version);
        *played.followed.entry(order).or_default() += 1;
        if fault.starts_with("SIGSTOP") {
            seats[index].guard.resume()?;
        } else {
            seats[index].guard.wait(ttl * PATIENCE).await?;
            let Seat { version, program, .. } = &seats[index];
            seats[index] = stage.seat(version, program.clone())?;
        }
        leader = next;
    }
    for seat in &seats {
        seat.guard.insist(Signal::TERM, ttl * PATIENCE).await?;
    }
    let record = backend.observe(&lease).await?.record.context("the register is gone")?;
    played.field_is_kept = record.extra.get(FIELD) == Some(&FIELD.into());
    let admitted = stage.resource.effects().await?;
    let rows =
        if backend.capabilities().history { Some(backend.history(&lease, u32::MAX).await?) } else { None };
    played.history =
        History { rows, effects: vec![Effects { resource: LEASE.into(), admitted }], events: vec![] };
    Ok(played)
}

/// The tables that starting a Postgres made are this version's: the earlier program makes its own.
async fn forget_tables(place: &Place) -> anyhow::Result<()> {
    let Place::Postgres(postgres) = place else { return Ok(()) };
    let flags = place.flags();
    let schema = flags.iter().skip_while(|flag| *flag != "--postgres-schema").nth(1);
    let drop = format!("DROP SCHEMA {} CASCADE", schema.context("a place in Postgres has a schema")?);
    let mut connection = postgres.client().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(&mut connection).await?;
    Ok(())
}

async fn operate(program: PathBuf, flags: Vec<String>, words: Vec<&'static str>) -> anyhow::Result<()> {
    let command = Process::command(program)?.args(words).args(flags);
    command.run(COMMAND_LIMIT).await.map(drop)
}

/// As a later version's operator would: beside the holder's beats.
async fn add_field(backend: &dyn LeaseBackend, lease: &LeaseName) -> anyhow::Result<()> {
    let mut seen = backend.observe(lease).await?;
    loop {
        let mut record = seen.record.clone().context("the register is gone")?;
        record.extra.insert(FIELD.into(), FIELD.into());
        record.tag = Tag::random();
        match backend.put_if(lease, &seen, &record, Change::Request).await? {
            PutOutcome::Written(_) => return Ok(()),
            PutOutcome::Conflict(shown) => seen = shown,
        }
    }
}

impl Stage {
    fn seat(&self, version: &'static str, program: PathBuf) -> anyhow::Result<Seat> {
        let ttl = format!("{}ms", self.ttl.as_millis());
        let lab = std::env::current_exe().context("cannot find this program again")?;
        let guard = Process::command(&program)?
            .env(writer::PLACE, self.place.to_json())
            .args(["run", "--lease", LEASE, "--ttl", &ttl, "--workload-id", version])
            .args(self.place.flags())
            .arg("--")
            .arg(lab)
            .args(writer::words(LEASE, version))
            .spawn()?;
        Ok(Seat { version, program, guard })
    }

    async fn newest(&self) -> anyhow::Result<Option<Leader>> {
        let Some((epoch, id)) = self.resource.newest().await? else { return Ok(None) };
        let version = writer::version_of(&id).context("an effect of a stranger")?.to_owned();
        Ok(Some(Leader { version, epoch }))
    }

    /// Waits for effects of a later epoch.
    async fn leader_after(&self, epoch: u64, seats: &[Seat]) -> anyhow::Result<Leader> {
        self.until("a successor's effects", seats, async || {
            Ok(self.newest().await?.filter(|leader| leader.epoch > epoch))
        })
        .await
    }

    async fn effect_number(&self, number: usize, seats: &[Seat]) -> anyhow::Result<()> {
        self.until("further effects", seats, async || {
            Ok((self.resource.effects().await?.len() >= number).then_some(()))
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &str,
        seats: &[Seat],
        look: impl AsyncFn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let looked = wait_for(what, self.ttl * PATIENCE, async || {
            look().await.and_then(|found| found.context("not yet"))
        });
        looked.await.with_context(|| {
            let told =
                seats.iter().map(|seat| format!("{}: {}", seat.version, seat.guard.lines().join("\n")));
            told.collect::<Vec<_>>().join("\n")
        })
    }
}
