//! The judge's verdicts on all leases of a run.

use std::collections::BTreeMap;
use std::fmt;

use lease_core::LeaseName;
use lease_judge::history::History;
use lease_judge::invariants::{self, Invariant};
use lease_judge::{Facts, Met, acceptor};
use serde::Serialize;

/// Violations are shown up to this number.
const SHOWN: usize = 12;

/// A claim and whether it holds.
#[derive(Debug, Serialize)]
pub(crate) struct RuleVerdict {
    /// `None` if there was nothing to judge.
    pub(crate) holds: Option<bool>,
    pub(crate) claim: String,
    pub(crate) found: String,
}

/// An invariant that doesn't hold on a lease.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeaseViolation {
    lease: String,
    #[serde(flatten)]
    violation: invariants::Violation,
}

/// All invariants on all leases.
#[derive(Debug, Serialize)]
pub(crate) struct Judged {
    pub(crate) verdicts: Vec<RuleVerdict>,
    pub(crate) violations: Vec<LeaseViolation>,
    /// Which operations met which faults, and which never did.
    met: Met,
}

impl Judged {
    /// Judges each lease by every invariant, and has the acceptor replay it. `violated` is to be violated, by a fence that was sabotaged.
    pub(crate) fn of(histories: &BTreeMap<LeaseName, History>, violated: Option<&str>) -> Self {
        Self::except(histories, &[], violated)
    }

    /// The same without those.
    pub(crate) fn except(
        histories: &BTreeMap<LeaseName, History>,
        left_out: &[&str],
        violated: Option<&str>,
    ) -> Self {
        let facts: Vec<_> = histories.iter().map(|(lease, history)| (lease, Facts::of(history))).collect();
        let mut judged = Self { verdicts: Vec::new(), violations: Vec::new(), met: Met::default() };
        histories.values().for_each(|history| judged.met.add(history));
        let all = invariants::ALL.iter().chain(&acceptor::ALL);
        for invariant in all.filter(|invariant| !left_out.contains(&invariant.rule)) {
            let (mut count, before) = (0, judged.violations.len());
            for (lease, facts) in &facts {
                match invariant.judge(facts) {
                    Ok(things) => count += things,
                    Err(violation) => {
                        judged.violations.push(LeaseViolation { lease: lease.to_string(), violation });
                    }
                }
            }
            let violations = judged.violations.len() - before;
            judged.verdicts.push(verdict(invariant, violated, count, violations));
        }
        judged
    }

    /// Some lease violates this invariant.
    pub(crate) fn violates(&self, rule: &str) -> bool {
        self.violations.iter().any(|violation| violation.violation.rule == rule)
    }

    /// No claim is refuted.
    pub(crate) fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.holds != Some(false))
    }
}

fn verdict(invariant: &Invariant, violated: Option<&str>, count: usize, violations: usize) -> RuleVerdict {
    let Invariant { rule, claim, judges, unjudged, .. } = invariant;
    let sabotaged = violated == Some(rule);
    let claim = match sabotaged {
        false => format!("{rule}: {claim}"),
        true => format!("{rule} is violated, for the sabotaged fence admits everybody"),
    };
    let found = match (violations, count) {
        (0, 0) => format!("not judged: {unjudged}"),
        (0, _) => format!("no violation, {count} {judges} judged"),
        _ => format!("violated on {violations} leases"),
    };
    let holds = (violations + count > 0).then_some((violations > 0) == sabotaged);
    RuleVerdict { holds, claim, found }
}

impl fmt::Display for RuleVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.holds {
            Some(true) => "ok  ",
            Some(false) => "FAIL",
            None => "–   ",
        };
        write!(f, "{word}  {}: {}", self.claim, self.found)
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdicts.iter().try_for_each(|verdict| writeln!(f, "{verdict}"))?;
        for LeaseViolation { lease, violation } in self.violations.iter().take(SHOWN) {
            writeln!(f, "\n  on {lease}, {violation}")?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "\n  and {} more", self.violations.len() - SHOWN)?;
        }
        write!(f, "{}", self.met)
    }
}

#[cfg(test)]
mod tests {
    use lease_judge::history::Effects;

    use super::*;

    fn effects(epochs: &[u64]) -> BTreeMap<LeaseName, History> {
        let admitted = epochs.iter().enumerate().map(|(id, epoch)| (*epoch, id.to_string())).collect();
        let effects = vec![Effects { resource: "outbox".into(), admitted }];
        BTreeMap::from([(LeaseName::new("a").unwrap(), History { effects, ..History::default() })])
    }

    fn holds(judged: &Judged, rule: &str) -> Option<bool> {
        let of = |verdict: &&RuleVerdict| verdict.claim.split([':', ' ']).next() == Some(rule);
        judged.verdicts.iter().find(of).unwrap().holds
    }

    #[test]
    fn an_invariant_holds_is_violated_or_has_nothing_to_judge() {
        let good = Judged::of(&effects(&[1, 2]), None);
        assert_eq!((holds(&good, "L-7"), holds(&good, "L-10"), good.holds()), (Some(true), None, true));
        let bad = Judged::of(&effects(&[2, 1]), None);
        assert_eq!((holds(&bad, "L-7"), bad.holds(), bad.violations.len()), (Some(false), false, 1));
    }

    #[test]
    fn a_violation_that_must_show_is_no_failure_and_its_absence_is_one() {
        assert!(Judged::of(&effects(&[2, 1]), Some("L-7")).holds());
        assert!(!Judged::of(&effects(&[1, 2]), Some("L-7")).holds());
        assert!(!Judged::of(&effects(&[2, 1]), Some("L-1")).holds());
    }
}
