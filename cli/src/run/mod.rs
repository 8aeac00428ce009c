//! `leasehold run`: any program, in any language, runs only while it leads (G-1 to G-4).
//!
//! Three processes watch over the command. The **guard** is what the user started: it campaigns and owns the grant. The
//! **watchdog** is its child, and dies by a timer of the kernel's shortly before the deadline. The **keeper** is the
//! watchdog's child and dies with it, and the parent of the command: it knows the deadline and ends the command with all
//! its descendants before it. Any of them may be killed or stopped, also all at once: the command ends in time. See
//! `docs/decisions/0006-guard-and-keeper.md`.

#[cfg(target_os = "linux")]
mod cgroup;
#[cfg(target_os = "linux")]
mod guard;
#[cfg(target_os = "linux")]
mod hold;
mod init;
mod isolate;
#[cfg(target_os = "linux")]
mod keeper;
#[cfg(target_os = "linux")]
mod keeper_handle;
#[cfg(target_os = "linux")]
mod signals;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod term;
#[cfg(target_os = "linux")]
mod tree;
#[cfg(target_os = "linux")]
mod watchdog;
#[cfg(target_os = "linux")]
mod wire;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use lease_core::{Elector, ElectorBuilder, LeaseName, printable};
use lease_settings::{App, Failure, LeaderElection, Together};

pub(crate) use self::init::waits;
use self::isolate::Isolate;
use crate::modes::must_exist;

/// The default log filter: the guard's own few lines, and the core's warnings.
pub(crate) const LOG_FILTER: &str = "warn,leasehold=info,kube_client=off";

/// The exit code of the guard's own failures, as `env`, `nohup` and `timeout` have it.
const OUR_FAILURE: u8 = 125;

/// The hidden subcommand that the guard starts its watchdog with.
const WATCHDOG: &str = "__watchdog";

/// The hidden subcommand that the watchdog starts the keeper with.
const KEEPER: &str = "__keeper";

/// The watchdog's argument that no right of the command may be given up for an isolation.
const KEEP_RIGHTS: &str = "keep-rights";

/// Least time from the command's SIGTERM to the deadline: half of it is left for killing.
const LEAST_GRACE: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "Examples:
  leasehold run --lease nightly --sqlite-path /var/lib/leasehold/leases.db --init -- ./report.sh --all
  leasehold --mode postgres --postgres-url-file /etc/leasehold/url run --lease server -- python3 -m http.server
  leasehold run --lease sync --sqlite-path leases.db --isolate pid -- rsync -a /from/ /to/";

const EXIT_CODES: &str = "Exit codes: the program's own, or 128 + n if signal n killed it; 2 bad input, nothing was \
started; 125 this command itself failed; 126 the program could not be executed, 127 not found; 128 + n signal n came while \
standing by.";

/// Between them in `--help-all`.
const AT_LENGTH: &str = "The program's environment has LEASEHOLD_LEASE, LEASEHOLD_EPOCH and LEASEHOLD_GRANT, and of this command's own all but the
variables of settings that are secret, such as SPENDGUARD_LEADER_POSTGRES_URL; with --pass-secrets these too. A statement that it has sent to
another machine can't be recalled when it is killed: let whoever receives it refuse epochs below the greatest it has
seen.

The program ends before its lease does, also when this command's own processes are all stopped or killed: so does
everything that it has started if it is isolated. --isolate=auto does that in a PID namespace with its own /proc, which
root has and, by user namespaces, most others; set-uid programs have no more rights than others there. A user namespace
would take root's rights and capabilities away, so whoever has any gets none unless asked to, by --isolate=pid. Else in a
cgroup v2 that is ours to divide, where all end as long as one of our processes runs. Without either, and on a terminal,
only the program itself is covered then, and set-uid programs get no more rights unless root runs this. Outside of a PID
namespace not even that is sure of a program that is set-uid or changes its user: the kernel forgets then to end it with
us. Change the user before: `gosu app leasehold run -- ./server`, not `leasehold run -- gosu app ./server`.

SIGTERM and SIGINT stop: all the program's processes get the signal, and SIGKILL shortly before --stop-budget is used
up. Ctrl-C belongs to the program. SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH are passed on to it.";

/// Run a program only while it holds the lease
///
/// The program starts when the lease is won. It gets SIGTERM, then SIGKILL, before the lease can be anybody else's;
/// so do all processes that it started, daemons included. The lease is released as soon as none of them is left.
/// When the lease is lost or handed over, the program is started anew once it is won again; when the program ends by
/// itself, so does this command, with its exit code.
#[derive(Debug, clap::Args)]
#[command(
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    after_long_help = format!("{EXAMPLES}\n\n{AT_LENGTH}\n\n{EXIT_CODES}")
)]
pub(crate) struct RunArgs {
    /// Create the lease first if it isn't there. On a server, and where an SQLite file was deleted, it is watched for one
    /// maximum ttl before it is taken: somebody may still hold it
    #[arg(long)]
    pub(crate) init: bool,
    /// Run the program for one term only: exit with 125 when the lease is lost or handed over
    #[arg(long)]
    pub(crate) once: bool,
    /// Leave the store's password and the other secret settings in the program's environment. Without this their variables
    /// are removed from it
    #[arg(long)]
    pub(crate) pass_secrets: bool,
    /// What the lease is for: a lease that was won for other work is not taken. The lease remembers it as run/NAME
    #[arg(long, value_name = "NAME", value_parser = work)]
    pub(crate) work: Option<String>,
    /// The means by which all of the program's processes are held together, and ended
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(crate) isolate: Isolate,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// A name of up to 200 characters, as people and records can hold it.
fn work(text: &str) -> Result<String, String> {
    match printable(text) {
        same if same == text && !text.is_empty() && text.len() <= 200 => Ok(same.into_owned()),
        _ => Err("use 1 to 200 characters without control or hidden characters".to_owned()),
    }
}

/// The command and the settings of its lease.
struct GuardPlan<'a> {
    lease: LeaseName,
    /// Makes an elector for one campaign.
    elector: Box<dyn Fn() -> Result<Elector, Failure> + 'a>,
    command: Vec<OsString>,
    /// Variables that the command doesn't get.
    withheld: Vec<&'static str>,
    /// The command gets SIGTERM this long before the deadline, and SIGKILL when half of it is left, 500 ms at most.
    stop_grace: Duration,
    /// The longest time for the command to stop when it is asked to.
    stop_budget: Duration,
    once: bool,
    isolate: Isolate,
    on_a_terminal: bool,
}

/// Runs the guard. No runtime and no thread but the log's exists yet when this is called.
pub(crate) fn run(args: &RunArgs, app: &App) -> Result<ExitCode, Failure> {
    let settings = app.settings();
    let election: LeaderElection = settings.block()?;
    let store = app.store().and_then(|store| {
        let why =
            "there is no lease in this mode to run under; use the mode of a lease store, for example sqlite";
        store.ok_or_else(|| settings.refuse::<LeaderElection>("mode", why))
    });
    let ttl = Duration::from(election.ttl_ms);
    let stop_grace = election.stop_grace_ms.map_or(ttl / 5, Duration::from);
    let stop_budget = Duration::from(election.stop_budget_ms);
    let long_enough = |key: &str, time: Duration, why: &str| {
        if time < LEAST_GRACE { Err(settings.refuse::<LeaderElection>(key, why)) } else { Ok(()) }
    };
    let grace_why = "use at least 100ms, so that the program can be killed before the deadline; it is ttlMs/5 by \
                     default, so use a ttlMs of at least 500ms";
    let budget_why = "use at least 100ms, so that the program can be killed when it doesn't stop";
    let (store, lease, from, ..) = (
        store,
        settings.required::<LeaderElection, _>("leaseName", election.lease_name.clone()),
        app.migrate_from(),
        settings.leader_election(),
        long_enough("stopGraceMs", stop_grace, grace_why),
        long_enough("stopBudgetMs", stop_budget, budget_why),
    )
        .together()?;
    let max_ttl = election.max_ttl_ms.map_or(ttl, Duration::from);
    if !args.init {
        must_exist(&store).map_err(|why| Failure::Code(OUR_FAILURE, format!("{why}; or use --init")))?;
    }
    if let Some(caution) = store.caution() {
        tracing::info!(lease = %lease, "{caution}");
    }
    let create = args.init.then_some(max_ttl);
    let name = lease.clone();
    let work = args.work.as_ref().map_or_else(|| "run".to_owned(), |name| format!("run/{name}"));
    let elector = move || {
        let connector = init::MayCreate { store: store.clone(), lease: name.clone(), create };
        let from = from.clone();
        let refine = |builder: ElectorBuilder| {
            let builder = builder.stop_grace(stop_grace).work(&work);
            match from {
                Some(from) => builder.migrate_from(from),
                None => builder,
            }
        };
        Ok(settings.elector(connector, None, refine)?)
    };
    let _checked = elector()?;
    let command = args.command.clone();
    guard(GuardPlan {
        lease,
        elector: Box::new(elector),
        command,
        withheld: if args.pass_secrets { Vec::new() } else { settings.secret_variables() },
        stop_grace,
        stop_budget,
        once: args.once,
        isolate: args.isolate,
        on_a_terminal: [
            std::io::stdin().is_terminal(),
            std::io::stdout().is_terminal(),
            std::io::stderr().is_terminal(),
        ]
        .contains(&true),
    })
}

#[cfg(target_os = "linux")]
fn guard(plan: GuardPlan<'_>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::Code(OUR_FAILURE, format!("no runtime could start: {error}")))?;
    runtime.block_on(guard::Guard::new(plan).run()).map(ExitCode::from)
}

/// Not here: subreapers, parent-death signals and pidfds are Linux's.
#[cfg(not(target_os = "linux"))]
fn guard(plan: GuardPlan<'_>) -> Result<ExitCode, Failure> {
    let GuardPlan {
        lease,
        elector,
        command,
        withheld,
        stop_grace,
        stop_budget,
        once,
        isolate,
        on_a_terminal,
    } = plan;
    let _ = (elector, command, withheld, stop_grace, stop_budget, once, isolate, on_a_terminal);
    Err(Failure::Code(
        OUR_FAILURE,
        format!(
            "lease {lease}: `leasehold run` needs Linux, for this system can't prove that a program's descendants are \
             dead; run it in a Linux container or virtual machine, or put the program behind the library"
        ),
    ))
}

/// Is this process a watchdog or a keeper? Then this is all that it does. To be called first thing in the process, before
/// any thread or runtime is started: the command dies with the *thread* that started it (G-3).
pub(crate) fn watchdog_or_keeper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let part = arguments.next()?;
    if part != WATCHDOG && part != KEEPER {
        return None;
    }
    #[cfg(target_os = "linux")]
    return Some(if part == KEEPER { keeper::main(arguments) } else { watchdog::main(arguments) }.into());
    #[cfg(not(target_os = "linux"))]
    Some(OUR_FAILURE.into())
}
