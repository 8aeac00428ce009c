//! Standard error, for processes that may hold a lease: nobody ever waits for its reader
//! (`docs/decisions/0057-logs.md`).
//!
//! Lines go into a bounded queue, and one thread writes them. Lines that don't fit, or can't be written, are dropped and
//! counted; once standard error takes lines again, one says how many.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::panic;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The most bytes that wait for the writer, some thousand lines. As much again may be with the writer itself.
const ROOM: usize = 1 << 20;

/// The longest time that a process waits for its last lines while nobody reads them: a pipe or a terminal that takes no
/// more. Usually they take microseconds. A file always takes more by what poll says, so there it's [`PATIENCE`] times
/// as long, 2 s.
const LAST_LINES: Duration = Duration::from_millis(200);

/// That many times as long if they could be written: a busy machine has not let the writer run.
const PATIENCE: u32 = 10;

static QUEUE: Queue = Queue::new();

/// Writes one line, some time soon. Never blocks and never fails.
pub fn line(text: impl Display) {
    QUEUE.put(format!("{text}\n").as_bytes());
}

/// Waits for the last lines before the process ends, but not for long.
pub fn flush() {
    QUEUE.flush();
}

/// The number of lines that nobody will read.
pub fn dropped() -> u64 {
    QUEUE.lock().dropped
}

/// Has panics say so here. The standard library's own words wait for standard error, and its reader may have stopped.
pub fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        let (keeps_up, backtrace) = (QUEUE.lock().is_idle(), Backtrace::capture());
        line(format_args!("thread '{}' {panic}", thread::current().name().unwrap_or("unnamed")));
        if backtrace.status() == BacktraceStatus::Captured {
            line(backtrace);
        }
        // The process may be about to abort. A reader that has stopped already is not waited for.
        if keeps_up {
            flush();
        }
    }));
}

/// The writer of log lines.
#[derive(Clone, Copy, Debug)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        QUEUE.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<u8>,
    has_writer: bool,
    /// The writer is at work on what it took.
    writing: bool,
    dropped: u64,
    /// That many of the dropped lines have been spoken of.
    told: u64,
}

impl State {
    fn is_idle(&self) -> bool {
        !self.writing && self.waiting.is_empty()
    }
}

impl Queue {
    const fn new() -> Self {
        let state = State { waiting: Vec::new(), has_writer: false, writing: false, dropped: 0, told: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&'static self, line: &[u8]) {
        let mut state = self.lock();
        if !state.has_writer {
            let writer = thread::Builder::new().name("stderr".to_owned());
            state.has_writer = writer.spawn(|| self.write_for_ever(io::stderr(), say_dropped)).is_ok();
        }
        if !state.has_writer || state.waiting.len() + line.len() > ROOM {
            state.dropped += lines(line);
        } else {
            state.waiting.extend_from_slice(line);
            self.changed.notify_all();
        }
    }

    fn flush(&self) {
        let mut state = self.lock();
        for _ in 0..PATIENCE {
            let waited = self.changed.wait_timeout_while(state, LAST_LINES, |state| !state.is_idle());
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() || !takes_more(Some(&Timespec::default())) {
                return;
            }
            state = now;
        }
    }

    fn write_for_ever(&self, mut to: impl Write, say_dropped: impl Fn(u64)) {
        loop {
            let batch = self.next_batch();
            let unwritten = write(&mut to, &batch);
            let mut state = self.lock();
            state.dropped += lines(unwritten);
            let untold = state.dropped - state.told;
            // In a full queue there is no room for that line either.
            if unwritten.is_empty() && untold > 0 && state.waiting.len() < ROOM / 2 {
                state.told = state.dropped;
                drop(state);
                say_dropped(untold);
            }
        }
    }

    fn next_batch(&self) -> Vec<u8> {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        while state.waiting.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        std::mem::take(&mut state.waiting)
    }
}

/// Also where no warnings are wanted: the lines that are missing may be errors.
fn say_dropped(count: u64) {
    let what = format_args!("{count} log lines were dropped while standard error could not be written");
    if tracing::enabled!(tracing::Level::WARN) {
        tracing::warn!("{what}");
    } else {
        line(what);
    }
}

fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Writes as much as it can, and returns what is left: nothing, or what met a closed pipe or a full disk.
fn write<'a>(to: &mut impl Write, mut text: &'a [u8]) -> &'a [u8] {
    while !text.is_empty() {
        match to.write(text) {
            Ok(0) => break,
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else who shares the descriptor made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                takes_more(None);
            }
            Err(_) => break,
        }
    }
    text
}

/// Can something be written to standard error, or will be within `limit`?
fn takes_more(limit: Option<&Timespec>) -> bool {
    poll(&mut [PollFd::new(&io::stderr(), PollFlags::OUT)], limit).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A reader that takes a batch whenever the test says so, or refuses it.
    struct Reader {
        began: mpsc::Sender<()>,
        answers: mpsc::Receiver<io::Result<usize>>,
        read: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            let taken = self.answers.recv().unwrap_or(Ok(usize::MAX))?.min(text.len());
            let _ = self.read.send(text[..taken].to_vec());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_dropped_and_counted_while_nobody_reads_and_spoken_of_once_somebody_does() {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new()));
        let (began, begun) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let (read, was_read) = mpsc::channel();
        let (say, said) = mpsc::channel();
        queue.lock().has_writer = true;
        thread::spawn(move || {
            queue.write_for_ever(Reader { began, answers, read }, move |count| {
                let _ = say.send(count);
            });
        });
        queue.put(b"first\n");
        begun.recv_timeout(LIMIT).expect("it writes the first line, and waits for its reader");
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let fitting = ROOM / line.len();
        for _ in 0..fitting + 7 {
            queue.put(&line);
        }
        assert_eq!(queue.lock().dropped, 7, "bounded, and nobody waited");
        queue.flush();
        assert!(!queue.lock().is_idle(), "nor is the reader waited for at the end");

        // A disk fills up in the middle of the second batch.
        answer.send(Ok(usize::MAX)).expect("it waits");
        assert_eq!(was_read.recv_timeout(LIMIT).expect("the first batch"), b"first\n");
        answer.send(Ok(line.len() * 3)).expect("it waits");
        answer.send(Err(ErrorKind::StorageFull.into())).expect("it waits");
        answer.send(Ok(usize::MAX)).expect("it waits");
        assert_eq!(was_read.recv_timeout(LIMIT).expect("a part").len(), line.len() * 3);
        begun.recv_timeout(LIMIT).expect("the rest of it");
        begun.recv_timeout(LIMIT).expect("refused");
        queue.put(b"last\n");
        assert_eq!(was_read.recv_timeout(LIMIT).expect("there is room again"), b"last\n");
        assert_eq!(said.recv_timeout(LIMIT), Ok(7 + fitting as u64 - 3));
        queue.flush();
        assert!(queue.lock().is_idle());
        assert_eq!(queue.lock().dropped, 7 + fitting as u64 - 3);
    }
}
