//! Runs the suite: as native tests, or as a report.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lease_core::Capabilities;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::case::PATIENCE;
use crate::cases;
use crate::description::Description;
use crate::harness::Harness;
use crate::step::real_core;

/// One store to judge, and what its author knows to be inapplicable to it.
pub struct Suite {
    /// The store.
    pub harness: Arc<dyn Harness>,
    /// The ids of the cases that this store ignores. One more or one less fails the suite: what isn't executed is
    /// never silent.
    pub ignored: &'static [&'static str],
}

/// Runs the suites as native tests, each case a trial of its own: `postgres/release::keeps_the_register`.
///
/// Call it from a test file with `harness = false`. A store that can't be reached fails every trial.
pub fn run(suites: Vec<Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let threads = suites.iter().map(|suite| suite.harness.parallel_cases()).min().unwrap_or(1);
    arguments.test_threads.get_or_insert(threads);
    let everything = arguments.filter.is_none()
        && arguments.skip.is_empty()
        && !arguments.list
        && !arguments.ignored
        && !arguments.include_ignored;
    let expected = suites.len() * (cases::all().count() + 1);
    let trials: Vec<_> = suites.into_iter().flat_map(trials).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let executed = conclusion.num_passed + conclusion.num_failed;
    if everything && executed + conclusion.num_ignored != expected as u64 {
        eprintln!(
            "{executed} executed and {} ignored trials are not the {expected} of the table",
            conclusion.num_ignored
        );
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

fn trials(suite: Suite) -> Vec<Trial> {
    let name = suite.harness.name().to_owned();
    let capabilities = capabilities(&*suite.harness);
    let mut ignored = BTreeSet::new();
    let mut trials = Vec::new();
    for case in cases::all() {
        let id = format!("{name}/{}", case.id);
        let because = match &capabilities {
            Ok(capabilities) => case.ignored_because(&*suite.harness, capabilities),
            Err(_) => None,
        };
        let (harness, reachable) = (suite.harness.clone(), capabilities.clone().map(drop));
        let trial = Trial::test(id, move || {
            reachable.map_err(Failed::from)?;
            case.run(harness, real_core(), PATIENCE).map(drop).map_err(Failed::from)
        });
        trials.push(match because {
            Some(because) => {
                ignored.insert(case.id);
                trial.with_ignored_flag(true).with_kind(format!("ignored, because {because}"))
            }
            None => trial,
        });
    }
    let known: BTreeSet<&str> = suite.ignored.iter().copied().collect();
    let harness = suite.harness;
    trials.push(Trial::test(format!("{name}/suite::ignores_exactly_what_its_author_knows"), move || {
        let capabilities = capabilities.map_err(Failed::from)?;
        if let Some(kept) = harness.description() {
            Description::of(&*harness, &capabilities).compare(kept)?;
        }
        let list = |ids: Vec<&&str>| ids.iter().map(|id| format!("\n    \"{id}\",")).collect::<String>();
        let unknown = list(ignored.difference(&known).collect());
        let stale = list(known.difference(&ignored).collect());
        if unknown.is_empty() && stale.is_empty() {
            return Ok(());
        }
        let mut told = String::new();
        if !unknown.is_empty() {
            told += &format!(
                "ignored, and not in the suite's list of what it ignores:{unknown}\neach is judged once the store or its \
                 harness offers what it needs (`ignored, because` names that, in the list of the run); it belongs to the \
                 list only if the store can never offer it\n"
            );
        }
        if !stale.is_empty() {
            told += &format!("judged by now, so no longer to be listed as ignored:{stale}\n");
        }
        Err(told.into())
    }));
    trials
}

fn capabilities(harness: &dyn Harness) -> Result<Capabilities, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    let connect = async { tokio::time::timeout(PATIENCE.0, harness.connect()).await };
    let connected = match runtime.block_on(connect) {
        Ok(Ok(backend)) => Ok(backend.capabilities()),
        Ok(Err(error)) => Err(format!("the {} store cannot be reached: {error}", harness.name())),
        Err(_) => {
            Err(format!("the {} store cannot be reached: no answer in {:?}", harness.name(), PATIENCE.0))
        }
    };
    runtime.shutdown_background();
    connected
}

/// One case and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case.
    pub id: &'static str,
    /// Its verdict.
    pub verdict: Verdict,
}

/// The verdict on one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it must.
    Passed {
        /// The time that it took.
        seconds: f64,
    },
    /// Not as it must.
    Failed {
        /// The failure, with the history that led to it.
        why: String,
    },
    /// It does not apply to this store, or needs what the harness doesn't offer.
    Ignored {
        /// Why.
        because: String,
    },
}

/// The verdicts of a whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Every case of the table, in its order.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// Passed, failed, ignored.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |test: fn(&Verdict) -> bool| self.cases.iter().filter(|case| test(&case.verdict)).count();
        (
            count(|verdict| matches!(verdict, Verdict::Passed { .. })),
            count(|verdict| matches!(verdict, Verdict::Failed { .. })),
            count(|verdict| matches!(verdict, Verdict::Ignored { .. })),
        )
    }

    /// Nothing failed, and something passed.
    pub fn is_good(&self) -> bool {
        let (passed, failed, _) = self.counts();
        passed > 0 && failed == 0
    }
}

/// Judges a store by every case whose id contains `filter`, and tells `progress` about each one as it ends.
///
/// Blocks the calling thread; the cases run on threads of their own. After `cancel` those under way are dropped and no
/// more begin: when this returns, nothing of the suite works on the store, and its actors' processes are killed.
///
/// # Errors
/// The store can't be reached, or `cancel` came before the last case had ended.
pub fn report(
    harness: Arc<dyn Harness>,
    filter: &str,
    progress: impl Fn(&CaseReport) + Sync,
    cancel: &CancellationToken,
) -> Result<Report, String> {
    let capabilities = capabilities(&*harness)?;
    let cases: Vec<_> = cases::all().filter(|case| case.id.contains(filter)).collect();
    let done = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..harness.parallel_cases().min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if cancel.is_cancelled() {
                        break;
                    }
                    let verdict = match case.ignored_because(&*harness, &capabilities) {
                        Some(because) => Verdict::Ignored { because },
                        None => match case.run_until(cancel, harness.clone(), real_core(), PATIENCE, None) {
                            Some(Ok(took)) => Verdict::Passed { seconds: took.as_secs_f64() },
                            Some(Err(why)) => Verdict::Failed { why },
                            None => break,
                        },
                    };
                    let report = CaseReport { id: case.id, verdict };
                    progress(&report);
                    done.lock().expect("not poisoned").push(report);
                }
            });
        }
    });
    let mut reports = done.into_inner().expect("not poisoned");
    if reports.len() < cases.len() {
        return Err(format!("cancelled after {} of {} cases", reports.len(), cases.len()));
    }
    let place = |id| cases.iter().position(|case| case.id == id);
    reports.sort_by_key(|report| place(report.id));
    Ok(Report { store: harness.name().to_owned(), cases: reports })
}
