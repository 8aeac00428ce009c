//! The command that is attacked: it stamps its time slices, and starts what makes a command hard to end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lease_core::Instant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::slices::{ProcessKind, Stamps};
use super::sys;

/// The argument of a process that is such a command; its folder and the seed follow.
const ATTACKED_COMMAND: &str = "attacked-command";

/// The pause between two stamps.
const EVERY: Duration = Duration::from_millis(1);

/// Whatever outlives its guard goes away by itself at last: an overlap shows long before.
const LIFE: Duration = Duration::from_secs(20);

/// The words of a command whose processes stamp into `folder`.
pub(super) fn words(program: &Path, folder: &Path, seed: u64) -> impl Iterator<Item = String> {
    let words = [program, Path::new(ATTACKED_COMMAND), folder].map(|word| word.display().to_string());
    words.into_iter().chain([seed.to_string()])
}

/// Is this process such a command? Then this is all that it does. To be called before there is a thread.
pub(crate) fn attacked() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    (words.next()? == ATTACKED_COMMAND).then(|| {
        let mut run = || -> anyhow::Result<()> {
            let folder = PathBuf::from(words.next().context("no folder")?);
            let seed: u64 = words.next().context("no seed")?.parse()?;
            let epoch = std::env::var("LEASEHOLD_EPOCH")?.parse()?;
            Attacked::new(Stamps::open(&folder, epoch)?).run(StdRng::seed_from_u64(seed ^ epoch))
        };
        run().map_or_else(
            |error| {
                eprintln!("{ATTACKED_COMMAND}: {error:#}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        )
    })
}

struct Attacked {
    stamps: Stamps,
    dies_at: Instant,
}

impl Attacked {
    fn new(stamps: Stamps) -> Self {
        let dies_at = stamps.stamp(ProcessKind::Command).plus(LIFE);
        Self { stamps, dies_at }
    }

    fn run(&self, mut random: StdRng) -> anyhow::Result<()> {
        sys::ignore(Signal::CHILD);
        if random.random_bool(0.5) {
            deaf();
        }
        if random.random_bool(0.5) && sys::fork()? {
            self.stamp_on(ProcessKind::Child);
        }
        if random.random_bool(0.6) && sys::fork()? {
            deaf();
            let _ = rustix::process::setsid();
            if !sys::fork()? {
                sys::exit_now();
            }
            self.stamp_on(ProcessKind::Daemon);
        }
        let pause = Duration::from_micros(if random.random_bool(0.3) { 100 } else { 1000 });
        for _ in 0..random.random_range(0..3) {
            if sys::fork()? {
                deaf();
                self.hop(pause);
            }
        }
        // Some leave the rest behind.
        let ends_at = if random.random_bool(0.1) {
            self.stamps.stamp(ProcessKind::Command).plus(EVERY * 500)
        } else {
            self.dies_at
        };
        while self.stamps.stamp(ProcessKind::Command) < ends_at {
            std::thread::sleep(EVERY);
        }
        Ok(())
    }

    fn stamp_on(&self, part: ProcessKind) -> ! {
        while self.stamps.stamp(part) < self.dies_at {
            std::thread::sleep(EVERY);
        }
        sys::exit_now()
    }

    /// Each process lives for the blink of an eye, and has begun the next by then.
    fn hop(&self, pause: Duration) -> ! {
        let mut hops = 0_u32;
        while self.stamps.stamp(ProcessKind::Hopper) < self.dies_at {
            // Where no process can be made any more it waits, as a storm would.
            if matches!(sys::fork(), Ok(false)) {
                sys::exit_now();
            }
            hops += 1;
            if hops.is_multiple_of(64) {
                let _ = rustix::process::setsid();
            }
            std::thread::sleep(pause);
        }
        sys::exit_now()
    }
}

fn deaf() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        sys::ignore(signal);
    }
}
