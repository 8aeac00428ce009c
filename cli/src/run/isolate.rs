//! `--isolate`: the means by which all of the command's processes are ended at once.

/// How the command's processes are held together
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Isolate {
    /// The first of pid, cgroup, none that can be had; on a terminal none
    Auto,
    /// A PID namespace with its own /proc: nothing in it outlives the deadline, whatever is stopped or killed
    Pid,
    /// A cgroup v2 of its own, below one that is ours to divide
    Cgroup,
    /// Neither: if guard, watchdog and keeper all fail at once, only the program itself is sure to end, unless it is
    /// set-uid or changes its user
    None,
}

impl Isolate {
    /// As it is given on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pid => "pid",
            Self::Cgroup => "cgroup",
            Self::None => "none",
        }
    }

    /// What is tried, in this order.
    pub(super) fn candidates(self, on_a_terminal: bool) -> &'static [Self] {
        match self {
            Self::Auto if on_a_terminal => &[Self::None],
            Self::Auto => &[Self::Pid, Self::Cgroup, Self::None],
            Self::Pid => &[Self::Pid],
            Self::Cgroup => &[Self::Cgroup],
            Self::None => &[Self::None],
        }
    }
}
