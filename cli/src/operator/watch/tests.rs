use std::time::Duration;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Instant, Lineage, Observation, Record};

use super::follow::{Follower, Happening};

const TTL: Duration = Duration::from_secs(15);

fn at(ms: u64) -> Instant {
    Instant::ZERO.plus(Duration::from_secs(3600) + Duration::from_millis(ms))
}

fn showing(record: Option<Record>) -> Observation {
    Observation { record, lineage: Lineage("1".into()), floor: 0, version: String::new() }
}

fn held(holder: &str, before: Option<&Record>) -> Record {
    let free = writes::init(&showing(None), TTL, 0, None, &Fresh::random());
    let before = before.unwrap_or(&free);
    let who = Candidate {
        holder: holder.into(),
        region: String::new(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
        work: None,
    };
    let fresh = Fresh::random();
    writes::acquire(&showing(Some(before.clone())), before, &who, fresh.grant, &fresh)
}

fn beat(record: &Record) -> Record {
    writes::renew(&showing(Some(record.clone())), record, &Fresh::random())
}

#[test]
fn silence_is_judged_by_the_watchers_own_clock_alone() {
    let mut follower = Follower::default();
    let mut record = held("a", None);
    // The holder's clock is a day behind: nothing may follow from it.
    record.renewed_at.0 -= 86_400_000;
    record.acquired_at = record.renewed_at;
    record.expires_at.0 -= 86_400_000;
    follower.observe(showing(Some(record.clone())), at(0));
    assert_eq!(follower.observe(showing(Some(record.clone())), at(7_000)), []);
    let silent = follower.observe(showing(Some(record.clone())), at(8_000));
    assert!(matches!(silent[..], [Happening::Silent { silent_ms: 8_000, ttl_ms: 15_000, .. }]), "{silent:?}");
    assert_eq!(follower.observe(showing(Some(record.clone())), at(15_020)), [], "not before ttl·(1+ρ)");
    let may = follower.judge(at(15_100));
    assert!(matches!(may, Some(Happening::MayBeTaken { silent_ms: 15_100, .. })), "{may:?}");
    assert_eq!(follower.judge(at(20_000)), None, "said once");
    let again = follower.observe(showing(Some(beat(&record))), at(21_000));
    assert!(
        matches!(again[..], [Happening::Beat { .. }, Happening::BeatingAgain { silent_ms: 21_000, .. }]),
        "{again:?}"
    );
}

#[test]
fn a_step_down_request_is_no_sign_of_life() {
    let mut follower = Follower::default();
    let record = held("a", None);
    follower.observe(showing(Some(record.clone())), at(0));
    let grant = record.grant.expect("held");
    let asked = writes::request(&record, grant, lease_core::RequestId::random(), "op", &Fresh::random());
    let happened = follower.observe(showing(Some(asked)), at(6_000));
    assert!(matches!(&happened[..], [Happening::StepDownAsked { by, .. }] if by == "op"), "{happened:?}");
    assert_eq!(follower.age(at(6_000)), Some(Duration::from_secs(6)));
}

#[test]
fn a_step_down_request_is_told_once_also_if_it_is_seen_together_with_its_term() {
    let a = held("a", None);
    let asked_of = |record: &Record| {
        let grant = record.grant.expect("held");
        writes::request(record, grant, lease_core::RequestId::random(), "op", &Fresh::random())
    };
    let mut follower = Follower::default();
    let happened = follower.observe(showing(Some(asked_of(&a))), at(0));
    assert!(
        matches!(&happened[..], [Happening::Seen { .. }, Happening::StepDownAsked { holder, .. }] if holder == "a"),
        "{happened:?}"
    );
    let asked = asked_of(&held("b", Some(&a)));
    let happened = follower.observe(showing(Some(asked.clone())), at(1));
    assert!(
        matches!(&happened[..], [Happening::Acquired { .. }, Happening::StepDownAsked { holder, .. }] if holder == "b"),
        "{happened:?}"
    );
    assert_eq!(follower.observe(showing(Some(asked)), at(2)), []);
}

#[test]
fn takeover_release_and_revocation_are_told_apart() {
    let mut follower = Follower::default();
    let a = beat(&held("a", None));
    follower.observe(showing(Some(a.clone())), at(0));
    let b = beat(&held("b", Some(&a)));
    let happened = follower.observe(showing(Some(b.clone())), at(1));
    assert!(
        matches!(&happened[..], [Happening::Acquired { holder, from, unseen_changes: 0, .. }]
            if holder == "b" && from == "a"),
        "{happened:?}"
    );
    let revoked = writes::revoke(&showing(Some(b.clone())), &b, 0, false, "why", &Fresh::random());
    let happened = follower.observe(showing(Some(revoked.clone())), at(2));
    assert!(
        matches!(&happened[..], [Happening::Revoked { holder, free: false, note, .. }]
            if holder == "b" && note == "why"),
        "{happened:?}"
    );
    let c = beat(&held("c", Some(&revoked)));
    follower.observe(showing(Some(c.clone())), at(3));
    let free = writes::release(&showing(Some(c.clone())), &c, &Fresh::random());
    let happened = follower.observe(showing(Some(free)), at(4));
    assert!(
        matches!(&happened[..], [Happening::Released { holder, asked: false, .. }] if holder == "c"),
        "{happened:?}"
    );
    let happened = follower.observe(showing(None), at(5));
    assert!(matches!(&happened[..], [Happening::Deleted { .. }]), "{happened:?}");
}

#[test]
fn says_how_many_changes_went_by_unseen() {
    let mut follower = Follower::default();
    let a = held("a", None);
    follower.observe(showing(Some(a.clone())), at(0));
    let c = held("c", Some(&held("b", Some(&a))));
    let happened = follower.observe(showing(Some(c)), at(1));
    assert!(matches!(&happened[..], [Happening::Acquired { unseen_changes: 1, .. }]), "{happened:?}");
}
