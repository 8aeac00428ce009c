//! Child processes: lines awaited, real signals, exit codes.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    fmt,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

use crate::{
    processes,
    supervisor::{Ending, supervisor},
    wait::wait_until,
};

/// The number of lines that are kept; older ones are forgotten.
const LINES_KEPT: usize = 20_000;

/// The time limit for reading the last lines of a process that has ended.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The time limit for a signal to take effect.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);

/// A command that becomes a [`Process`]; made by [`Process::command`].
#[derive(Debug)]
pub struct ProcessCommand {
    name: String,
    command: Command,
    /// Standard output and standard error, if they go elsewhere.
    elsewhere: [Option<Stdio>; 2],
}

/// A child process that doesn't outlive this one, even if this one is killed by SIGKILL.
///
/// It has a process group of its own and nothing on standard input. Its output is kept line by line. Dropping
/// this value kills the group by SIGKILL and waits for the child. It may be used from any runtime.
pub struct Process {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
    events: watch::Receiver<u64>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts the events: a line, the end of a stream, the exit.
    events: watch::Sender<u64>,
}

struct State {
    child: Child,
    status: Option<ExitStatus>,
    open_streams: usize,
    lines: VecDeque<Line>,
    /// The number of lines that were forgotten.
    forgotten: usize,
}

struct Line {
    stream: Stream,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Output,
    Error,
}

// === impl ProcessCommand ===

impl ProcessCommand {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable from the environment that it inherits.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Inherits no environment but a mark of the testbed's own.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets its working directory; otherwise it has this process's.
    #[must_use]
    pub fn current_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sends its standard output elsewhere: none of it is among the process's lines.
    #[must_use]
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.elsewhere[0] = Some(to.into());
        self
    }

    /// The same for standard error.
    #[must_use]
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.elsewhere[1] = Some(to.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the system can start no process, or the working directory doesn't exist.
    pub fn spawn(mut self) -> anyhow::Result<Process> {
        supervisor()?.mark(&mut self.command);
        let [stdout, stderr] = self.elsewhere.map(|elsewhere| elsewhere.unwrap_or_else(Stdio::piped));
        self.command.stdout(stdout).stderr(stderr);
        let mut child = self.command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let pid = Pid::from_child(&child);
        // The command would keep their other ends open.
        drop(self.command);
        let stdout =
            child.stdout.take().map(|bytes| (Stream::Output, Box::new(bytes) as Box<dyn Read + Send>));
        let stderr =
            child.stderr.take().map(|bytes| (Stream::Error, Box::new(bytes) as Box<dyn Read + Send>));
        let streams: Vec<_> = stdout.into_iter().chain(stderr).collect();
        let (sender, events) = watch::channel(0);
        let open_streams = streams.len();
        let state = State { child, status: None, open_streams, lines: VecDeque::new(), forgotten: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state), events: sender });
        let process = Process { name: self.name, pid, shared: shared.clone(), events };
        for (stream, bytes) in streams {
            let shared = shared.clone();
            thread::Builder::new().name("testbed-lines".into()).spawn(move || shared.read(stream, bytes))?;
        }
        thread::Builder::new().name("testbed-wait".into()).spawn(move || shared.reap(pid))?;
        Ok(process)
    }

    /// From a supervised command; `name` is for messages.
    #[cfg(feature = "postgres")]
    pub(crate) fn of(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), command, elsewhere: [None, None] }
    }

    /// Runs it to its end, which has to be a success, and returns the lines that it printed on standard output.
    ///
    /// # Errors
    /// When it can't be started, fails (the message has all that it printed), or has not ended after `limit`; it is
    /// killed then, and when the future is dropped.
    pub async fn run(self, limit: Duration) -> anyhow::Result<Vec<String>> {
        let process = self.spawn()?;
        let status = process.wait(limit).await?;
        if !status.success() {
            bail!("{} failed ({status}): {}", process.name, process.lines().join("\n"));
        }
        let state = process.shared.lock();
        Ok(state
            .lines
            .iter()
            .filter(|line| line.stream == Stream::Output)
            .map(|line| line.text.clone())
            .collect())
    }
}

// === impl Process ===

impl Process {
    /// A command for `program`: a path, or a name that is looked up in PATH.
    ///
    /// # Errors
    /// When there is no such program.
    ///
    /// ```
    /// # async fn example() -> anyhow::Result<()> {
    /// use lease_testbed::{Process, Signal};
    /// use std::time::Duration;
    /// let limit = Duration::from_secs(10);
    /// let sleeper = Process::command("sh")?.args(["-c", "echo ready; exec sleep 60"]).spawn()?;
    /// sleeper.wait_for_line("ready", limit).await?;
    /// sleeper.signal(Signal::TERM)?;
    /// assert_eq!(sleeper.wait(limit).await?.code(), None);
    /// # Ok(()) }
    /// ```
    pub fn command(program: impl AsRef<Path>) -> anyhow::Result<ProcessCommand> {
        let program = program.as_ref();
        let path = find_program(program).with_context(|| {
            format!("there is no program {}: build or install it first", program.display())
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let command = supervisor()?.command(&path, Ending::Kill)?;
        Ok(ProcessCommand { name, command, elsewhere: [None, None] })
    }

    /// Its process id. It may be another's as soon as [`exit_status`](Self::exit_status) is known.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the process itself, not to its group.
    ///
    /// # Errors
    /// When the process has already ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let state = self.shared.lock();
        if let Some(status) = state.status {
            bail!("cannot send {signal:?} to {}: it has ended ({status})", self.name);
        }
        // It can't have been reaped: that happens under the same lock.
        rustix::process::kill_process(self.pid, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Sends the signal again and again, as an impatient person does, until the process has ended.
    ///
    /// # Errors
    /// It has not ended in time.
    pub async fn insist(&self, signal: Signal, limit: Duration) -> anyhow::Result<ExitStatus> {
        let ended = async {
            loop {
                let _ = self.signal(signal);
                if let Ok(status) = self.wait(Duration::from_millis(100)).await {
                    return status;
                }
            }
        };
        tokio::time::timeout(limit, ended)
            .await
            .with_context(|| format!("timed out after {limit:?} waiting for its end"))
    }

    /// SIGSTOP; returns when no thread of the process executes anything.
    ///
    /// # Errors
    /// When the process has ended, or doesn't stop within 10 s.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)?;
        wait_until(&format!("{} has stopped", self.name), SIGNAL_LIMIT, async || {
            processes::has_stopped(self.pid).unwrap_or(false)
        })
        .await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL; returns when the process has ended.
    ///
    /// # Errors
    /// When the process had already ended.
    pub async fn kill(&self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait(SIGNAL_LIMIT).await
    }

    /// Waits for the process to end; it is not asked to. Its last lines have been read then, unless a process that it
    /// started keeps its output open for more than 500 ms.
    ///
    /// # Errors
    /// When `limit` has passed first; the message has its last lines.
    pub async fn wait(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let status = self.until(limit, |state| state.status).await.ok_or_else(|| {
            anyhow!(
                "timed out after {limit:?} waiting for {} to end; its last lines:\n{}",
                self.name,
                self.tail()
            )
        })?;
        let _ = self.until(LAST_LINES, |state| (state.open_streams == 0).then_some(())).await;
        Ok(status)
    }

    /// Its exit status; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.shared.lock().status
    }

    /// Waits for a line, on standard output or standard error, that contains `text`; lines that were printed
    /// before count. Returns the first such line.
    ///
    /// # Errors
    /// When `limit` has passed first, or the process has ended without such a line.
    pub async fn wait_for_line(&self, text: &str, limit: Duration) -> anyhow::Result<String> {
        self.wait_for_line_after(0, text, limit).await
    }

    /// As [`wait_for_line`](Self::wait_for_line), but the first `lines` lines don't count: take the number
    /// from [`line_count`](Self::line_count) before causing the line.
    ///
    /// # Errors
    /// As there.
    pub async fn wait_for_line_after(
        &self,
        lines: usize,
        text: &str,
        limit: Duration,
    ) -> anyhow::Result<String> {
        let found = self.until(limit, |state| {
            let line = state
                .lines
                .iter()
                .skip(lines.saturating_sub(state.forgotten))
                .map(|line| &line.text)
                .find(|line| line.contains(text));
            match line {
                Some(line) => Some(Some(line.clone())),
                None if state.status.is_some() && state.open_streams == 0 => Some(None),
                None => None,
            }
        });
        let (name, tail) = (&self.name, || self.tail());
        match found.await {
            Some(Some(line)) => Ok(line),
            Some(None) => bail!("{name} has ended without printing {text:?}; its last lines:\n{}", tail()),
            None => bail!(
                "timed out after {limit:?} waiting for {text:?} from {name}; its last lines:\n{}",
                tail()
            ),
        }
    }

    /// The number of lines that it has printed so far.
    pub fn line_count(&self) -> usize {
        let state = self.shared.lock();
        state.forgotten + state.lines.len()
    }

    /// The lines that it has printed so far, the last 20,000 of them, both streams together.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.iter().map(|line| line.text.clone()).collect()
    }

    /// Its last lines, for an error message.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    async fn until<T>(&self, limit: Duration, mut reached: impl FnMut(&State) -> Option<T>) -> Option<T> {
        let mut events = self.events.clone();
        let wait = async {
            loop {
                events.mark_unchanged();
                if let Some(value) = reached(&self.shared.lock()) {
                    return value;
                }
                if events.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.ok()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The group first, while the child's pid still names it.
        let mut state = self.shared.lock();
        if state.status.is_none() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
            state.reap();
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read(&self, stream: Stream, bytes: impl Read) {
        for line in BufReader::new(bytes).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).into_owned();
            let mut state = self.lock();
            if state.lines.len() == LINES_KEPT {
                state.lines.pop_front();
                state.forgotten += 1;
            }
            state.lines.push_back(Line { stream, text });
            drop(state);
            self.happened();
        }
        self.lock().open_streams -= 1;
        self.happened();
    }

    /// Waits without reaping, then reaps under the lock, so that no signal goes to a process that got the pid next.
    fn reap(&self, pid: Pid) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
        self.lock().reap();
        self.happened();
    }

    fn happened(&self) {
        self.events.send_modify(|count| *count += 1);
    }
}

impl State {
    fn reap(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.status = self.child.wait().ok();
        if let Ok(supervisor) = supervisor() {
            supervisor.forget(Pid::from_child(&self.child));
        }
    }
}

/// A path as it is, a bare name by PATH; absolute, since the child may work in another folder.
pub(crate) fn find_program(program: &Path) -> Option<PathBuf> {
    let candidates = if program.components().count() > 1 {
        vec![program.to_owned()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    candidates.into_iter().find(|path| path.is_file()).and_then(|path| std::path::absolute(path).ok())
}

/// The value of `NAME=VALUE` in a line of a log.
///
/// # Errors
/// When the line has no such field.
///
/// ```
/// let line = "INFO started address=127.0.0.1:8080 grpc=127.0.0.1:50051";
/// assert_eq!(lease_testbed::field(line, "address").unwrap(), "127.0.0.1:8080");
/// ```
pub fn field<'a>(line: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.with_context(|| format!("no {name}= in the line {line:?}"))
}
