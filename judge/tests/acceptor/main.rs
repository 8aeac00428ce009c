//! A trace is accepted as it is, and rejected after any edit of one event, unless the edited trace is one of another run
//! of the protocol ([`legal`]).

mod edit;
mod legal;
mod register;
mod scene;

use std::collections::BTreeMap;

use lease_judge::history::History;
use lease_judge::{acceptor, invariants};

fn verdicts(history: &History) -> Vec<invariants::Violation> {
    [acceptor::explain(history), invariants::judge(history)].concat()
}

#[tokio::test]
async fn every_edit_of_one_event_is_rejected_or_makes_the_trace_of_another_run() {
    let (mut rejected, mut legal) = (BTreeMap::<_, usize>::new(), BTreeMap::<_, usize>::new());
    let mut accepted = Vec::new();
    for history in [scene::terms().await, scene::deleted().await] {
        assert_eq!(verdicts(&history), [], "{}", history.tell());
        for edit in edit::all(&history) {
            match (verdicts(&edit.history).first(), legal::why(&edit, &history)) {
                (Some(violation), _) => *rejected.entry(violation.rule).or_default() += 1,
                (None, Some(why)) => *legal.entry(why).or_default() += 1,
                (None, None) => accepted.push(format!("{}: {:?}", edit.how, history.events[edit.place])),
            }
        }
    }
    println!("rejected {rejected:?}, legal {legal:#?}");
    assert!(accepted.is_empty(), "{} edits were accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(rejected["J-1"] > 1000 && rejected["J-2"] > 300, "too few edits were rejected: {rejected:?}");
    let unused: Vec<_> = legal::REASONS.iter().filter(|(why, _)| !legal.contains_key(why)).collect();
    assert!(unused.is_empty(), "no edit needs these reasons: {:?}", unused.iter().map(|(why, _)| why));
}
