//! One lease: its guards, and the faults that they suffer.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use lease_testbed::{Folder, Process, Signal};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command;
use super::plan::{Attack, Plan, Victim};
use super::programs::AttackPrograms;
use super::slices::{self, Overlap};

/// The guards of each lease.
const GUARDS: usize = 3;

const FAULTS_A_TERM: usize = 4;

/// The exit codes of a guard that no fault explains: bad input, a command that isn't executable, or isn't found.
const NOTHING_RUNS: [i32; 3] = [2, 126, 127];

/// The pause between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) struct AttackedLease {
    lease: String,
    ttl: Duration,
    /// Its guards run as nobody.
    unprivileged: bool,
    folder: Folder,
    /// The words of each guard.
    words: Vec<String>,
    plan: Plan,
}

/// What a lane has seen.
pub(super) struct LaneReport {
    pub(super) lease: String,
    pub(super) ttl: Duration,
    pub(super) unprivileged: bool,
    pub(super) faults: BTreeMap<String, usize>,
    pub(super) terms: usize,
    pub(super) overlaps: Vec<Overlap>,
    pub(super) shortest: Option<Duration>,
    /// The last lines of guards that ended by themselves with the exit code 125.
    pub(super) failures: Vec<String>,
}

impl LaneReport {
    /// Of four faults one at least leads to a new term, or the run shows little.
    pub(super) fn has_enough_terms(&self) -> bool {
        self.terms * FAULTS_A_TERM >= self.faults.values().sum() && self.terms > 0
    }
}

impl AttackedLease {
    pub(super) fn new(
        number: u64,
        seed: u64,
        ttls: &std::ops::RangeInclusive<Duration>,
        unprivileged: bool,
        isolate: &str,
        programs: &AttackPrograms,
        store: impl FnOnce(&Folder) -> Vec<String>,
    ) -> anyhow::Result<Self> {
        let folder = Folder::new("attack")?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let slices = folder.path().join("slices");
        fs::create_dir(&slices)?;
        fs::set_permissions(&slices, fs::Permissions::from_mode(0o777))?;
        let mut plan = Plan::new(seed, number);
        let (lease, ttl) = (format!("lease-{number}"), plan.ttl(ttls));
        let mut words: Vec<String> = vec!["--default-signal".into()];
        if unprivileged {
            words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned));
        }
        words.push(programs.leasehold.display().to_string());
        words.extend(store(&folder));
        let ttl_ms = format!("{}ms", ttl.as_millis());
        let run = ["run", "--init", "--lease", &lease, "--ttl", &ttl_ms, "--isolate", isolate];
        words.extend(run.map(str::to_owned));
        // The faults of a busy machine are not these.
        words.extend(["--stop-budget", "2s", "--"].map(str::to_owned));
        words.extend(command::words(&programs.lab, &slices, seed));
        Ok(Self { lease, ttl, unprivileged, folder, words, plan })
    }

    fn start(&self, without_timer: bool) -> anyhow::Result<Process> {
        let mut guard = Process::command("env")?.current_dir(self.folder.path()).args(&self.words);
        if without_timer {
            guard = guard.env("LEASEHOLD_LAB_WITHOUT_TIMER", "1");
        }
        guard.spawn()
    }

    fn slices(&self) -> PathBuf {
        self.folder.path().join("slices")
    }

    /// The number of terms so far.
    fn terms(&self) -> usize {
        fs::read_dir(self.slices()).map_or(0, Iterator::count)
    }

    /// Until `enough`.
    pub(super) async fn run(
        mut self,
        without_timer: bool,
        count: impl Fn(usize, usize),
        enough: CancellationToken,
    ) -> anyhow::Result<LaneReport> {
        let mut guards = Vec::new();
        for _ in 0..GUARDS {
            guards.push(self.start(without_timer)?);
        }
        let (mut faults, mut failures) = (BTreeMap::new(), Vec::new());
        while !enough.is_cancelled() {
            for guard in &mut guards {
                if let Some(status) = guard.exit_status() {
                    let code = status.code().unwrap_or_default();
                    anyhow::ensure!(
                        !NOTHING_RUNS.contains(&code),
                        "{}: a guard ended with {code}: {}",
                        self.lease,
                        last_lines(guard)
                    );
                    if code == 125 {
                        failures.push(last_lines(guard));
                    }
                    *guard = self.start(without_timer)?;
                }
            }
            let fault = self.plan.next().expect("a plan has no end");
            let leader = self.leader(&guards).await;
            tokio::time::sleep(self.ttl.mul_f64(fault.calm)).await;
            let any = (fault.chance * GUARDS as f64) as usize;
            let before = self.terms();
            self.hit(&fault, guards[leader.filter(|_| fault.leader).unwrap_or(any)].id()).await;
            *faults.entry(fault.name()).or_insert(0) += 1;
            count(1, self.terms() - before);
        }
        for guard in &guards {
            let _ = guard.signal(Signal::TERM);
        }
        for guard in guards {
            // Whatever it is: killed after that, with its group.
            let _ = guard.wait(self.ttl * 3).await;
        }
        let slices = slices::read(&self.slices())?;
        let (overlaps, shortest) = slices::judge(&self.lease, &slices);
        let terms = self.terms();
        let Self { lease, ttl, unprivileged, .. } = self;
        Ok(LaneReport { lease, ttl, unprivileged, faults, terms, overlaps, shortest, failures })
    }

    /// The guard whose command runs, once there is one; none if that takes too long.
    async fn leader(&self, guards: &[Process]) -> Option<usize> {
        let began = Instant::now();
        while began.elapsed() < self.ttl * 4 {
            if let Some(leader) = guards.iter().position(|guard| Family::of(guard.id()).command.is_some()) {
                return Some(leader);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }

    async fn hit(&self, fault: &Attack, guard: u32) {
        let family = Family::of(guard);
        let mut stopped = Vec::new();
        for (victim, signal) in &fault.signals {
            for handle in family.handles(*victim) {
                let _ = pidfd_send_signal(&handle, *signal);
                if *signal == Signal::STOP {
                    stopped.push(handle);
                }
            }
        }
        if stopped.is_empty() {
            return;
        }
        let stop = self.ttl.mul_f64(fault.stopped_for);
        tokio::time::sleep(stop / 2).await;
        if let Some(victim) = fault.killed_meanwhile {
            for handle in family.handles(victim) {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        tokio::time::sleep(stop / 2).await;
        for handle in stopped {
            let _ = pidfd_send_signal(&handle, Signal::CONT);
        }
    }
}

/// What a guard said last.
fn last_lines(guard: &Process) -> String {
    let lines = guard.lines();
    lines[lines.len().saturating_sub(3)..].join("\n      ")
}

/// A guard and its descendants at one moment. Each is held by a pidfd: a signal reaches no stranger.
struct Family {
    guard: Option<Handle>,
    watchdog: Option<Handle>,
    keeper: Option<Handle>,
    command: Option<Handle>,
    rest: Vec<Handle>,
}

type Handle = (u32, OwnedFd);

impl Family {
    fn of(guard: u32) -> Self {
        let handle = |pid: u32| {
            let handle = pidfd_open(Pid::from_raw(pid as i32)?, PidfdFlags::empty()).ok()?;
            Some((pid, handle))
        };
        let child = |of: &Option<Handle>, named: &str| {
            let (parent, _) = of.as_ref()?;
            let is = |pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(named))
            };
            children(*parent).into_iter().find(is).and_then(handle)
        };
        let guard = handle(guard);
        let watchdog = child(&guard, "__watchdog");
        let keeper = child(&watchdog, "__keeper");
        let mut below = keeper.as_ref().map_or_else(Vec::new, |(keeper, _)| children(*keeper));
        let command = below.first().copied().and_then(handle);
        let mut next = 0;
        while let Some(parent) = below.get(next) {
            below.extend(children(*parent));
            next += 1;
        }
        Self {
            guard,
            watchdog,
            keeper,
            command,
            rest: below.into_iter().skip(1).filter_map(handle).collect(),
        }
    }

    fn handles(&self, victim: Victim) -> Vec<OwnedFd> {
        let one = |of: &Option<Handle>| of.iter().filter_map(|(_, handle)| handle.try_clone().ok()).collect();
        match victim {
            Victim::Guard => one(&self.guard),
            Victim::Watchdog => one(&self.watchdog),
            Victim::Keeper => one(&self.keeper),
            Victim::Command => one(&self.command),
            Victim::Rest => self.rest.iter().filter_map(|(_, handle)| handle.try_clone().ok()).collect(),
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
