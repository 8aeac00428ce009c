//! The supervisor, by which nothing outlives the process that started it, however that process ends.
//!
//! One small `sh` process stands beside the runner and holds the reading end of a pipe, the *lifeline*. Every
//! supervised child writes its own pid into that pipe before it becomes its program, so there
//! is no moment at which a child runs and the supervisor doesn't know it. When the runner ends, by return, panic,
//! Ctrl-C or SIGKILL, the kernel closes the writing end; the supervisor then ends the remaining processes and
//! removes the folder that holds all files.
//!
//! A parent-death signal would not suffice: it follows the *thread* that spawned, test threads end early, and it
//! removes no folders.

use std::{
    fs,
    io::{BufRead, BufReader, PipeWriter, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, anyhow};
use rustix::process::Pid;

/// Marks the processes of one runner in their environment, so that their descendants are found too.
const MARK: &str = "LEASE_TESTBED_ROOT";

const SUPERVISOR: &str = include_str!("supervisor.sh");

/// `$0` is the signal that ends the child; its standard input is the lifeline until it becomes the program.
const BECOME: &str = r#"echo "+ $$ $0" >&0 && exec "$@" </dev/null"#;

/// The signal by which the supervisor ends a child that is still there when the runner has gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// SIGKILL, to its process group and its descendants.
    Kill,
    /// SIGQUIT, which Postgres answers by an immediate shutdown that frees its shared memory; SIGKILL later.
    #[cfg(feature = "postgres")]
    Quit,
}

pub(crate) struct Supervisor {
    root: PathBuf,
    lifeline: Mutex<PipeWriter>,
    folders: AtomicU64,
}

/// A folder of one server, process or run, removed on drop. It doesn't outlive this process, even if that is killed by
/// SIGKILL: the supervisor removes it then.
#[derive(Debug)]
pub struct Folder(PathBuf);

/// The supervisor of this process, started on first use.
pub(crate) fn supervisor() -> anyhow::Result<&'static Supervisor> {
    static SUPERVISOR: OnceLock<Result<Supervisor, String>> = OnceLock::new();
    SUPERVISOR
        .get_or_init(|| Supervisor::start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

// === impl Supervisor ===

impl Supervisor {
    fn start() -> anyhow::Result<Self> {
        let (end, lifeline) = std::io::pipe().context("cannot make a pipe")?;
        let mut sh = Command::new("/bin/sh")
            .args(["-c", r#"eval "$SUPERVISOR""#, "testbed-supervisor", MARK]) // short in the output of `ps`
            .env("SUPERVISOR", SUPERVISOR)
            .env_remove(MARK) // a runner within a runner must not end its supervisor
            .stdin(end)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for the runner
            .spawn()
            .context("cannot start /bin/sh, which removes servers when their runner dies")?;
        let mut root = String::new();
        let stdout = sh.stdout.take().context("the supervisor has no standard output")?;
        BufReader::new(stdout).read_line(&mut root)?;
        if root.trim_end().is_empty() {
            return Err(anyhow!(
                "cannot make a folder below {}: set TMPDIR to a folder that can be written to",
                std::env::temp_dir().display()
            ));
        }
        let root = PathBuf::from(root.trim_end());
        Ok(Self { root, lifeline: Mutex::new(lifeline), folders: AtomicU64::new(0) })
    }

    /// A command whose process the supervisor knows from its first instruction, in a process group of its own,
    /// with nothing on standard input.
    pub(crate) fn command(&self, program: &Path, ending: Ending) -> anyhow::Result<Command> {
        let signal = match ending {
            Ending::Kill => "KILL",
            #[cfg(feature = "postgres")]
            Ending::Quit => "QUIT",
        };
        let lifeline = self.lock().try_clone().context("cannot duplicate the supervisor's pipe")?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", BECOME, signal]).arg(program).stdin(lifeline).process_group(0);
        self.mark(&mut command);
        Ok(command)
    }

    /// Marks a command's environment again, after it was cleared.
    pub(crate) fn mark(&self, command: &mut Command) {
        command.env(MARK, &self.root);
    }

    /// Forgets a process that was waited for: its pid may soon be another's.
    pub(crate) fn forget(&self, pid: Pid) {
        // An error means that the supervisor was killed.
        let _ = writeln!(self.lock(), "- {}", pid.as_raw_nonzero());
    }

    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<Folder> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(format!("{name}-{number}"));
        fs::create_dir(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PipeWriter> {
        self.lifeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Folder ===

impl Folder {
    /// Makes an empty one, below the system's folder for temporary files. `name` is for people.
    ///
    /// # Errors
    /// When it can't be made, or there is no `/bin/sh` to remove it.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        supervisor()?.folder(name)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "could not remove a throw-away folder");
        }
    }
}
