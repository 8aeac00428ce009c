//! A database that shares no processor with those who measure it, as where it has a machine of its own.

/// That [`apart`] will find what it needs: asked first, since what is measured before it would be lost.
///
/// # Errors
/// There is only one processor, or this system binds no program to some of them.
#[cfg(target_os = "linux")]
pub(crate) fn can_be_apart() -> anyhow::Result<()> {
    let count = std::thread::available_parallelism()?.get();
    anyhow::ensure!(count > 1, "one processor can't be shared out: give this machine, or this program, two");
    Ok(())
}

/// Gives the server and its sessions one half of our processors, and us and whom we start the other, from now on.
///
/// # Errors
/// The server has ended, or the system refuses.
#[cfg(target_os = "linux")]
pub(crate) fn apart(server: u32) -> anyhow::Result<()> {
    use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

    let ours = sched_getaffinity(None)?;
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| ours.is_set(*cpu)).collect();
    let (theirs, ours) = all.split_at(all.len() / 2);
    let sessions = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"))?;
    let sessions = sessions.split_whitespace().map(str::to_owned);
    let threads =
        std::fs::read_dir("/proc/self/task")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for (processors, threads) in
        [(theirs, sessions.chain([server.to_string()]).collect::<Vec<_>>()), (ours, threads.collect())]
    {
        let mut set = CpuSet::new();
        processors.iter().for_each(|cpu| set.set(*cpu));
        for thread in threads {
            // One that has ended meanwhile needs none.
            let _ = sched_setaffinity(Pid::from_raw(thread.parse()?), &set);
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn can_be_apart() -> anyhow::Result<()> {
    anyhow::bail!("this part binds programs to processors: run it on Linux, or only `leasehold-bench leases`")
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn apart(_server: u32) -> anyhow::Result<()> {
    can_be_apart()
}
