//! The system's table of processes, to stop and kill a whole server.

use rustix::process::Pid;

#[derive(Debug)]
struct Entry {
    pid: Pid,
    parent: Option<Pid>,
    state: char,
}

/// The children that a process has now, and theirs.
pub(crate) fn descendants(of: Pid) -> std::io::Result<Vec<Pid>> {
    let table = table()?;
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(table.iter().filter(|entry| entry.parent == Some(parent)).map(|entry| entry.pid));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Whether a process no longer executes anything: it has gone, or only its exit status is left.
pub(crate) fn has_ended(pid: Pid) -> std::io::Result<bool> {
    Ok(entry(pid)?.is_none_or(|entry| matches!(entry.state, 'Z' | 'X')))
}

/// Whether a process, with all its threads, executes nothing until it gets SIGCONT; true if it has ended.
pub(crate) fn has_stopped(pid: Pid) -> std::io::Result<bool> {
    Ok(threads(pid)?.into_iter().all(|state| matches!(state, 'T' | 't' | 'Z' | 'X')))
}

#[cfg(target_os = "linux")]
fn table() -> std::io::Result<Vec<Entry>> {
    let folders = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids = folders.filter_map(|folder| Pid::from_raw(folder.file_name().to_str()?.parse().ok()?));
    // A process may end between the listing and the reading.
    Ok(pids.filter_map(|pid| entry(pid).ok().flatten()).collect())
}

#[cfg(target_os = "linux")]
fn entry(pid: Pid) -> std::io::Result<Option<Entry>> {
    let Some(fields) = stat(&format!("/proc/{}/stat", pid.as_raw_nonzero()))? else { return Ok(None) };
    let mut fields = fields.split(' ');
    let state = fields.next().and_then(|state| state.chars().next()).unwrap_or('?');
    let parent = fields.next().and_then(|parent| parent.parse().ok()).and_then(Pid::from_raw);
    Ok(Some(Entry { pid, parent, state }))
}

#[cfg(target_os = "linux")]
fn threads(pid: Pid) -> std::io::Result<Vec<char>> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else {
        return Ok(Vec::new());
    };
    let mut states = Vec::new();
    for task in tasks.filter_map(Result::ok) {
        let fields = stat(&task.path().join("stat").to_string_lossy())?;
        states.extend(fields.and_then(|fields| fields.chars().next()));
    }
    Ok(states)
}

/// The fields after the name in a `stat` file, `None` if the process has gone.
#[cfg(target_os = "linux")]
fn stat(path: &str) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        // The name stands in parentheses and may contain any character.
        Ok(text) => Ok(text.rsplit_once(") ").map(|(_, fields)| fields.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn table() -> std::io::Result<Vec<Entry>> {
    let output = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "state="])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let entries = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        Some(Entry {
            pid: Pid::from_raw(fields.next()?.parse().ok()?)?,
            parent: Pid::from_raw(fields.next()?.parse().ok()?),
            state: fields.next()?.chars().next()?,
        })
    });
    Ok(entries.collect())
}

#[cfg(not(target_os = "linux"))]
fn entry(pid: Pid) -> std::io::Result<Option<Entry>> {
    Ok(table()?.into_iter().find(|entry| entry.pid == pid))
}

#[cfg(not(target_os = "linux"))]
fn threads(pid: Pid) -> std::io::Result<Vec<char>> {
    Ok(entry(pid)?.into_iter().map(|entry| entry.state).collect())
}
