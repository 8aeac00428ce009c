//! One restore: some leases at once, each with another holder and standby.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::join_all;
use lease_core::admin::{self, Init};
use lease_core::{Instant, LeaseName};
use lease_testbed::{Process, wait_for};
use rand::RngExt;
use rand::rngs::StdRng;

use super::play::{Contender, HolderState, Play, Saw};
use super::site::{RestoreKind, RestoreSite};
use crate::fleet::{ActorPart, Fleet, now};

const LIMIT: Duration = Duration::from_secs(60);

/// The restore under processes that run, and the one before those that start.
pub(super) const ROUNDS: [&[Saw]; 2] = [&[Saw::All, Saw::Half], &[Saw::Nothing]];

/// The settings of one round.
pub(super) struct Round {
    pub(super) kind: RestoreKind,
    pub(super) number: u64,
    pub(super) standbys: &'static [Saw],
    pub(super) ttl: Duration,
    /// `leasehold restored` is left out.
    pub(super) sabotaged: bool,
}

/// The end of a round.
pub(super) struct RoundEnd<'a> {
    pub(super) plays: Vec<Play<'a>>,
    pub(super) restoring: Instant,
    /// The restored store answered.
    pub(super) served: Instant,
}

impl Round {
    pub(super) async fn play<'a>(
        &self,
        fleet: &'a Fleet,
        random: &mut StdRng,
    ) -> anyhow::Result<RoundEnd<'a>> {
        let mut site = self.kind.start().await?;
        let mut plays = Vec::new();
        // A standby that saw half saw a register: there is none in a backup that is older.
        for saw in self.standbys.iter().filter(|saw| !self.kind.loses_registers || **saw != Saw::Half) {
            for state in [HolderState::CutOff, HolderState::Alive] {
                plays.push(self.cast(fleet, &*site, (*saw, state), random)?);
            }
        }
        if !self.kind.loses_registers {
            self.init(&*site, &plays).await?;
        }
        each(&mut plays, async |play| play.before_the_backup().await).await;
        site.back_up().await.context("the backup")?;
        if self.kind.loses_registers {
            self.init(&*site, &plays).await?;
        }
        let backend = site.place().connect().await?;
        each(&mut plays, async |play| play.after_the_backup(&*backend).await).await;
        // SQLite: no process but the fleet's has the file open.
        drop(backend);
        each(&mut plays, async |play| play.ripens().await).await;
        each(&mut plays, async |play| play.before_the_restore().await).await;
        tokio::time::sleep(self.ttl.mul_f64(random.random_range(0.0..0.2))).await;
        let restoring = now();
        let restored = self.restore(&mut *site, &plays).await;
        if let Err(error) = &restored {
            plays.iter_mut().for_each(|play| play.problem = Some(format!("{error:#}")));
        }
        let served = restored.unwrap_or(now());
        each(&mut plays, async |play| play.after_the_restore(restoring, served).await).await;
        Ok(RoundEnd { plays, restoring, served })
    }

    /// As an operator does it. Returns when the restored store answered.
    async fn restore(&self, site: &mut dyn RestoreSite, plays: &[Play<'_>]) -> anyhow::Result<Instant> {
        site.restore().await.context("the restore")?;
        let name = &plays[0].lease;
        let answers = async || site.place().connect().await?.observe(name).await;
        wait_for("the restored store answers", LIMIT, answers).await?;
        let served = now();
        let must_be_told = self.standbys.contains(&Saw::Nothing) || self.kind.ends_processes;
        if must_be_told && !self.sabotaged && !self.kind.loses_registers {
            leasehold(site, &["restored"]).await?;
        }
        if self.kind.loses_registers {
            // The holders that are alive make theirs again (T-5).
            let cut_off = plays.iter().filter(|play| play.state == HolderState::CutOff);
            let names: Vec<_> = cut_off.map(|play| play.lease.as_str()).collect();
            leasehold(site, &[&["init"], &names[..]].concat()).await?;
        }
        Ok(served)
    }

    fn cast<'a>(
        &self,
        fleet: &'a Fleet,
        site: &dyn RestoreSite,
        (saw, state): (Saw, HolderState),
        random: &mut StdRng,
    ) -> anyhow::Result<Play<'a>> {
        let name = format!("{}-{}-{}-{}", self.kind.name, self.number, state, saw).replace([' ', '_'], "-");
        let lease = LeaseName::new(name)?;
        let contender = |workload: &str, by_link: bool| {
            let linked = if by_link { site.link()? } else { None };
            let (link, place) = linked.map_or((None, site.place()), |(link, place)| (Some(link), place));
            let (lease, workload) = (lease.clone(), format!("{lease}/{workload}"));
            let part = ActorPart { place, lease, workload, ttl: self.ttl, effects: None };
            anyhow::Ok(Contender::new(part, link))
        };
        // Cut off by the network or by SIGSTOP.
        let seats = [contender("holder", random.random())?, contender("standby", random.random())?];
        Ok(Play::new(fleet, lease, (saw, state), seats))
    }

    async fn init(&self, site: &dyn RestoreSite, plays: &[Play<'_>]) -> anyhow::Result<()> {
        let backend = site.place().connect().await?;
        for play in plays {
            let init = Init { new: true, above: 0, max_ttl: self.ttl };
            admin::init(&*backend, &play.lease, init).await?;
        }
        Ok(())
    }
}

/// The next step of each play that has had no problem so far.
async fn each(plays: &mut [Play<'_>], step: impl AsyncFn(&mut Play<'_>) -> anyhow::Result<()>) {
    let steps = plays.iter_mut().filter(|play| play.problem.is_none()).map(async |play| {
        play.problem = step(play).await.err().map(|error| format!("{error:#}"));
    });
    join_all(steps).await;
}

/// An operator's command.
async fn leasehold(site: &dyn RestoreSite, args: &[&str]) -> anyhow::Result<()> {
    let binary: PathBuf = std::env::current_exe()?.with_file_name("leasehold");
    ensure!(binary.is_file(), "there is no {}: run `cargo build -p leasehold` first", binary.display());
    let command = Process::command(&binary)?.args(args).args(site.place().flags());
    command.run(LIMIT).await.map(drop)
}
