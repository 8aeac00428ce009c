//! Edits that make the trace of another run, and why it is one.

use lease_judge::history::{History, HistoryEntry, What};

use crate::edit::Edit;

type Fits = fn(&Edit, &History, &HistoryEntry) -> bool;

/// Each reason, and the edits that it excuses.
pub(crate) const REASONS: &[(&str, Fits)] = &[
    ("the model does the same with another value", |edit, _, event| match event.what {
        What::Stepped(_) => edit.how.starts_with("/what/stepped"),
        What::Ruled(_) => edit.how.starts_with("/what/ruled"),
        What::Watching { .. } => edit.how.contains("/live"),
        _ => edit.how.contains("/floor ") || edit.how.contains("/version "),
    }),
    ("a wake-up did nothing: it may come at another moment, often or never", |edit, history, event| {
        let did_nothing = matches!(event.what, What::Stepped(_)) && !goes_on(history, edit.place);
        (did_nothing || matches!(event.what, What::Ruled(_))) && !edit.how.starts_with("/actor")
    }),
    ("whoever is killed may have told less of its last step", |edit, history, event| {
        let leaves = own(history, &event.actor).any(|(_, own)| own.what == What::Left);
        let last = own(history, &event.actor)
            .filter(|(_, own)| is_of_the_elector(own))
            .map(|(place, _)| place)
            .max();
        !leaves && last == Some(edit.place) && (edit.how == "dropped" || edit.how.starts_with("/actor"))
    }),
    ("the question whether it leads is asked from outside, at any time", |edit, _, event| {
        matches!(event.what, What::Claimed { .. }) && !edit.how.contains("/term")
    }),
    ("a beginning, an end and a death are told from outside", |edit, _, event| match event.what {
        What::Campaigning { .. } => edit.how.starts_with("/at") || edit.how.contains("/poll_ms"),
        What::Left | What::Died => true,
        _ => false,
    }),
    ("a change from outside may take longer, and be any", |edit, _, event| {
        matches!(event.what, What::Outside { .. }) && edit.how != "dropped"
    }),
    (
        "init, renewal and request leave no row, so the word by hand is all that tells them apart",
        |edit, _, event| {
            let word = |word: &str| edit.how.ends_with(&format!("-> \"{word}\""));
            matches!(event.what, What::Sent { .. })
                && edit.how.starts_with("/what/sent/put/change")
                && (word("init") || word("renew") || word("request"))
        },
    ),
    ("a call by hand takes as long as it takes, and needs no answer", |edit, history, event| {
        let by_hand = !own(history, &event.actor).any(|(_, own)| matches!(own.what, What::Stepped(_)));
        let answer = matches!(event.what, What::Answered { .. });
        let call = answer || matches!(event.what, What::Sent { .. });
        by_hand
            && call
            && (edit.how.starts_with("/at")
                || answer && (edit.how == "dropped" || edit.how.starts_with("swapped")))
    }),
];

/// Why the edited trace is one of another run; `None` if it has to be rejected.
pub(crate) fn why(edit: &Edit, history: &History) -> Option<&'static str> {
    let event = &history.events[edit.place];
    REASONS.iter().find(|(_, fits)| fits(edit, history, event)).map(|(why, _)| *why)
}

fn own<'a>(history: &'a History, actor: &'a str) -> impl Iterator<Item = (usize, &'a HistoryEntry)> {
    history.events.iter().enumerate().filter(move |(_, event)| event.actor == actor)
}

/// Does the step at `place` take in or do anything that another event tells?
fn goes_on(history: &History, place: usize) -> bool {
    let step = &history.events[place];
    let next = own(history, &step.actor).find(|(other, own)| *other > place && is_of_the_elector(own));
    next.is_some_and(|(_, next)| next.at == step.at && !matches!(next.what, What::Stepped(_)))
}

fn is_of_the_elector(event: &HistoryEntry) -> bool {
    !matches!(event.what, What::Claimed { .. } | What::Died | What::Left | What::Campaigning { .. })
}
