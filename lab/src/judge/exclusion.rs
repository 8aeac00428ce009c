//! L-1, mutual exclusion: the times in which terms may be acted on never overlap, on the one clock of the host.

use super::{Claimed, Violation, violation};

pub(super) fn check(claims: &[Claimed]) -> Vec<Violation> {
    let mut ordered: Vec<_> = claims.iter().collect();
    ordered.sort_by_key(|claimed| claimed.from);
    let mut found = Vec::new();
    let mut last: Option<&Claimed> = None;
    for claimed in ordered {
        if let Some(before) = last
            && before.until > claimed.from
        {
            let micros = (before.until.min(claimed.until.max(claimed.from)) - claimed.from) / 1000;
            found.push(violation("L-1", format!("two terms at once for {micros} µs"), &[before, claimed]));
        }
        if last.is_none_or(|before| before.until < claimed.until) {
            last = Some(claimed);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::{Grant, Term};

    fn claimed(epoch: u64, from: u64, until: u64) -> Claimed {
        Claimed { incarnation: epoch, term: Term { epoch, grant: Grant(epoch.into()) }, from, until }
    }

    #[test]
    fn terms_one_after_the_other_are_right() {
        assert_eq!(check(&[claimed(2, 20, 30), claimed(1, 10, 20), claimed(3, 30, 40)]), []);
    }

    #[test]
    fn rejects_an_overlap_also_with_a_term_that_is_not_the_one_before() {
        assert_eq!(check(&[claimed(1, 10, 21), claimed(2, 20, 30)]).len(), 1);
        assert_eq!(check(&[claimed(1, 10, 100), claimed(2, 20, 30), claimed(3, 40, 50)]).len(), 2);
        assert_eq!(check(&[claimed(1, 10, 100), claimed(2, 50, 50)]).len(), 1);
    }
}
