//! Checks that many cases make. Each says what was seen against what was expected.

use std::fmt::Debug;

use anyhow::{bail, ensure};
use lease_core::{BackendError, Leadership, LeaseBackend, Loss, Record, StopReason, Term};
use serde_json::Value;

use crate::actor::Actor;
use crate::context::Cx;

/// `seen` is as `expected`.
pub(crate) fn equal<T: Debug + PartialEq>(what: &str, seen: T, expected: T) -> anyhow::Result<()> {
    ensure!(seen == expected, "{what}: {seen:?}, expected {expected:?}");
    Ok(())
}

/// The records are the same, in every field.
pub(crate) fn same(what: &str, seen: &Option<Record>, expected: &Option<Record>) -> anyhow::Result<()> {
    ensure!(seen == expected, "{what}: {}", difference(seen, expected));
    Ok(())
}

fn difference(seen: &Option<Record>, expected: &Option<Record>) -> String {
    let (Some(seen), Some(expected)) = (seen, expected) else {
        return format!("{seen:?}, expected {expected:?}");
    };
    let fields = |record| match serde_json::to_value(record) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("a record is an object, not {other:?}"),
    };
    let (seen, expected) = (fields(seen), fields(expected));
    let names = seen.keys().chain(expected.keys().filter(|name| !seen.contains_key(*name)));
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let told: Vec<_> = names
        .filter(|name| seen.get(*name) != expected.get(*name))
        .map(|name| format!("{name} is {}, expected {}", shown(seen.get(name)), shown(expected.get(name))))
        .collect();
    told.join("; ")
}

/// The case's register is as `expected`, by a read of its own.
pub(crate) async fn register_is(
    cx: &Cx,
    backend: &dyn LeaseBackend,
    expected: &Option<Record>,
    when: &str,
) -> anyhow::Result<()> {
    let seen = backend.observe(&cx.lease()).await?;
    same(&format!("the register {when}"), &seen.record, expected)
}

/// The machine kept an elector of the case from running for longer than its calls may take, so that a term may have
/// ended. That ends the case without a verdict of its own; the invariants have theirs on what has happened.
#[derive(Debug, thiserror::Error)]
#[error("the machine stood still")]
pub(crate) struct StoodStill;

/// The term is still led.
pub(crate) async fn leads(cx: &Cx, term: &Leadership, when: &str) -> anyhow::Result<()> {
    if term.is_leader_now() {
        return Ok(());
    }
    let loss = cx.soon("the term's end", term.lost()).await?;
    let ran_out = loss == Loss::Expired || term.stop_reason() == Some(&StopReason::Expiring);
    ensure!(!ran_out || !cx.stood_still().await, StoodStill);
    bail!(
        "term {} is over {when} ({loss:?}), and must still be led; told to stop: {:?}",
        term.term(),
        term.stop_reason()
    );
}

/// The term is over.
pub(crate) fn is_over(term: &Leadership, when: &str) -> anyhow::Result<()> {
    ensure!(
        !term.is_leader_now(),
        "term {} is led for another {:?} {when}, and must be over",
        term.term(),
        term.remaining()
    );
    Ok(())
}

/// The term ends in this way.
pub(crate) async fn ends(cx: &Cx, term: &Leadership, expected: Loss) -> anyhow::Result<()> {
    let loss = cx.soon("the term's end", term.lost()).await?;
    ensure!(loss == expected || loss != Loss::Expired || !cx.stood_still().await, StoodStill);
    ensure!(loss == expected, "term {} ended as {loss:?}, expected {expected:?}", term.term());
    Ok(())
}

/// A later term has the greater epoch, and a grant of its own (E-1).
pub(crate) fn follows(later: Term, earlier: Term) -> anyhow::Result<()> {
    ensure!(later.epoch > earlier.epoch, "term {later} follows {earlier}, and its epoch must be greater");
    ensure!(
        later.grant != earlier.grant,
        "term {later} follows {earlier}, and its grant must be another one"
    );
    Ok(())
}

/// None of these has led since the case last asked. Ask about the term that keeps them from it first.
pub(crate) fn none_led<'a>(
    actors: impl IntoIterator<Item = &'a mut Actor>,
    when: &str,
) -> anyhow::Result<()> {
    for actor in actors {
        if let Some(led) = actor.leads_already() {
            bail!("{} led term {} {when}, and must not lead", actor.name, led.term());
        }
    }
    Ok(())
}

/// An operation that the backend doesn't offer says so.
pub(crate) fn refused(operation: &str, answer: Result<(), BackendError>) -> anyhow::Result<()> {
    let wanted = format!("does not offer {operation}");
    match answer {
        Ok(()) => bail!("its capabilities declare no {operation}, and it offers one"),
        Err(error) => ensure!(
            error.refused && error.to_string().contains(&wanted),
            "it must refuse by `unsupported`, with {wanted:?}; it is refused: {}, with {error:#}",
            error.refused
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_hand::free;
    use lease_core::{Memory, Observation};

    #[tokio::test]
    async fn a_difference_names_each_field_that_differs_with_both_values_and_no_other() {
        let absent: Observation = Memory::new().observe(&crate::by_hand::name("a")).await.unwrap();
        let expected = free(&absent);
        let mut seen = Record { beat: 7, holder: "b".to_owned(), ..expected.clone() };
        seen.extra.insert("newer".to_owned(), 1.into());
        let told = difference(&Some(seen), &Some(expected));
        let parts: Vec<_> = told.split("; ").collect();
        assert!(parts.contains(&"beat is 7, expected 0"), "{told}");
        assert!(parts.contains(&"holder is \"b\", expected \"\""), "{told}");
        assert!(parts.contains(&"newer is 1, expected nothing"), "{told}");
        assert_eq!(parts.len(), 3, "{told}");
    }
}
