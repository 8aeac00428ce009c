//! **L-7 fenced effects**: on a resource, no effect of an epoch comes after one of a greater epoch.

use super::{Violation, require};
use crate::history::History;

/// Judges a history's effects, in each resource's own order.
pub fn check(history: &History) -> Result<(), Violation> {
    for resource in &history.effects {
        for pair in resource.admitted.windows(2) {
            let ((earlier, first), (later, second)) = (&pair[0], &pair[1]);
            require("L-7", earlier <= later, || {
                format!(
                    "on {}, effect {second:?} of epoch {later} came after {first:?} of epoch {earlier}",
                    resource.resource
                )
            })?;
        }
        let mut ids: Vec<_> = resource.admitted.iter().map(|(_, id)| id).collect();
        ids.sort();
        let doubled = ids.windows(2).find(|pair| pair[0] == pair[1]);
        require("L-7", doubled.is_none(), || {
            format!("on {}, effect {doubled:?} happened twice", resource.resource)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Effects;

    fn effects(admitted: &[(u64, &str)]) -> History {
        let admitted = admitted.iter().map(|(epoch, id)| (*epoch, (*id).to_owned())).collect();
        History { effects: vec![Effects { resource: "outbox".into(), admitted }], ..History::default() }
    }

    #[test]
    fn accepts_epochs_that_never_fall() {
        assert_eq!(check(&effects(&[(1, "a"), (1, "b"), (3, "c")])), Ok(()));
    }

    #[test]
    fn rejects_an_effect_of_an_earlier_epoch() {
        assert_eq!(check(&effects(&[(1, "a"), (3, "b"), (1, "c")])).unwrap_err().rule, "L-7");
    }

    #[test]
    fn rejects_a_doubled_effect() {
        assert!(check(&effects(&[(1, "a"), (1, "a")])).is_err());
    }
}
