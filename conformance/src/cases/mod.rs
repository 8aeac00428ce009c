//! Every case, grouped by subject. Ids are stable: operators and backends' authors name them.

mod absence;
mod acquire;
mod cancellation;
mod capabilities;
mod certainty;
mod compare;
mod deletion;
mod down;
mod epoch;
mod expiry;
mod fence;
mod handover;
mod hints;
mod history;
mod lineage;
mod list;
mod many;
mod names;
mod observations;
mod outage;
mod process;
mod properties;
mod register;
mod release;
mod renew;
mod replicas;
mod rewind;
mod texts;
mod unknown;
mod watch;
mod work;

use crate::case::Case;

/// Every case of the suite, in a stable order.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        register::CASES,
        compare::CASES,
        observations::CASES,
        texts::CASES,
        names::CASES,
        capabilities::CASES,
        epoch::CASES,
        acquire::CASES,
        renew::CASES,
        release::CASES,
        expiry::CASES,
        handover::CASES,
        unknown::CASES,
        certainty::CASES,
        fence::CASES,
        work::CASES,
        lineage::CASES,
        rewind::CASES,
        absence::CASES,
        deletion::CASES,
        outage::CASES,
        down::CASES,
        replicas::CASES,
        watch::CASES,
        hints::CASES,
        list::CASES,
        many::CASES,
        history::CASES,
        cancellation::CASES,
        properties::CASES,
        process::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The case with this id.
pub fn find(id: &str) -> Option<&'static Case> {
    all().find(|case| case.id == id)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_unique_and_tell_a_group() {
        let mut ids: Vec<_> = super::all().map(|case| case.id).collect();
        assert!(ids.iter().all(|id| id.contains("::")));
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
