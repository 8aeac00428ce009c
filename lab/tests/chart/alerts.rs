//! The alerts ask for metrics and labels that real workers emit.

use std::collections::BTreeSet;

use crate::common::{list, one, render, repository, text};
use crate::scrape::{ask, emitted};

const ALERTS: [&str; 9] = [
    "SpendGuardLeaseFlapping",
    "SpendGuardOutboxAgeUnknown",
    "SpendGuardOutboxLagHigh",
    "SpendGuardOutboxNoLeader",
    "SpendGuardSidecarNotAcquiring",
    "SpendGuardSidecarTakeoverStorm",
    "SpendGuardSweepAgeUnknown",
    "SpendGuardSweepLagHigh",
    "SpendGuardSweeperNoLeader",
];

#[tokio::test]
async fn every_alert_asks_for_series_that_real_workers_show() -> anyhow::Result<()> {
    let series = emitted().await?;
    let (mut seen, mut uses) = (BTreeSet::new(), BTreeSet::new());
    for example in ["full", "shared"] {
        let manifests = tokio::task::spawn_blocking(move || crate::common::rendered(example)).await?;
        for rule in list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules") {
            let alert = text(rule, "/alert");
            for name in ask(alert, text(rule, "/expr"), series) {
                uses.insert((name, alert.to_owned()));
            }
            seen.insert(alert.to_owned());
        }
    }
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ALERTS);
    // What the page says of them.
    let page = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    for (name, alert) in &uses {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` ")));
        assert!(row.is_some_and(|row| row.contains(alert)), "docs/metrics.md: {alert} uses {name}: {row:?}");
    }
    let said: usize = ALERTS.iter().map(|alert| page.matches(alert).count()).sum();
    assert_eq!(said, uses.len(), "docs/metrics.md names an alert that does not use the metric");
    Ok(())
}

#[test]
fn each_alert_leads_to_its_section_of_the_runbook() {
    let runbook = std::fs::read_to_string(repository().join("docs/operating.md")).unwrap();
    let url = "https://docs.example/leasehold/operating";
    let manifests = render("full", &[]).unwrap();
    let rules = list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
    for rule in rules {
        let alert = text(rule, "/alert");
        // The anchor of this heading.
        assert!(runbook.contains(&format!("\n### {alert}\n")), "docs/operating.md has no {alert}");
        let led_to = text(rule, "/annotations/runbook_url");
        assert_eq!(led_to, format!("{url}#{}", alert.to_lowercase()));
        assert!(!text(rule, "/annotations/summary").is_empty(), "{alert}");
    }
    assert_eq!(rules.len(), ALERTS.len());
    let without = render("full", &["prometheusRule.runbookUrl="]).unwrap();
    let rules = list(one(&without, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
    assert!(rules.iter().all(|rule| rule.pointer("/annotations/runbook_url").is_none()));
}

#[test]
fn alerts_of_roles_that_do_not_run_are_left_out() {
    let sets = ["sidecar.enabled=false", "ledger.enabled=false", "ttlSweeper.enabled=false"];
    let manifests = render("full", &sets).unwrap();
    let rules = list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
    let alerts: Vec<_> = rules.iter().map(|rule| text(rule, "/alert")).collect();
    let expected = [
        "SpendGuardLeaseFlapping",
        "SpendGuardOutboxNoLeader",
        "SpendGuardOutboxLagHigh",
        "SpendGuardOutboxAgeUnknown",
    ];
    assert_eq!(alerts, expected);
}
