//! L-7, fenced effects: on a resource, in its store's own order, no effect of an epoch after one of a greater.

use std::collections::HashSet;

use super::{EffectRow, Incarnation, Violation, violation};

pub(super) fn check(effects: &[EffectRow]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut greatest: Option<&EffectRow> = None;
    for effect in effects {
        match greatest {
            Some(before) if effect.term.epoch < before.term.epoch => {
                found.push(violation("L-7", "a stale effect", &[before, effect]));
            }
            Some(before)
                if effect.term.epoch == before.term.epoch && effect.term.grant != before.term.grant =>
            {
                found.push(violation("L-7", "effects of two grants of one epoch", &[before, effect]));
            }
            _ => greatest = Some(effect),
        }
    }
    found
}

/// Without this the order of what is left would prove nothing.
pub(super) fn check_durable(effects: &[EffectRow], acknowledged: &[(Incarnation, u64)]) -> Vec<Violation> {
    let present: HashSet<_> = effects.iter().map(|effect| (effect.incarnation, effect.number)).collect();
    let lost = acknowledged.iter().filter(|effect| !present.contains(effect));
    lost.map(|effect| violation("durable", "an acknowledged effect is gone", &[effect])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::{Grant, Term};

    fn effect(sequence: i64, epoch: u64, grant: u128) -> EffectRow {
        let term = Term { epoch, grant: Grant(grant) };
        EffectRow { sequence, term, incarnation: 1, number: sequence as u64, pid: 1, before: 0 }
    }

    #[test]
    fn effects_in_the_order_of_their_terms_are_right() {
        assert_eq!(check(&[effect(1, 1, 1), effect(2, 1, 1), effect(3, 4, 2)]), []);
    }

    #[test]
    fn rejects_each_stale_effect_and_a_second_grant() {
        assert_eq!(check(&[effect(1, 1, 1), effect(2, 2, 2), effect(3, 1, 1), effect(4, 1, 1)]).len(), 2);
        assert_eq!(check(&[effect(1, 2, 1), effect(2, 2, 2)]).len(), 1);
    }

    #[test]
    fn rejects_the_loss_of_an_acknowledged_effect() {
        assert_eq!(check_durable(&[effect(1, 1, 1)], &[(1, 1)]), []);
        assert_eq!(check_durable(&[effect(1, 1, 1)], &[(1, 1), (1, 2)]).len(), 1);
    }
}
