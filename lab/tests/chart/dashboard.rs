//! The dashboard shows what real workers emit.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::common::{chart, list, of_kind, one, render, repository, text};
use crate::scrape::{OF_THE_TARGET, ask, emitted};

fn dashboard() -> Value {
    let json = std::fs::read_to_string(chart().join("dashboards/leasehold.json")).expect("a dashboard");
    serde_json::from_str(&json).expect("JSON")
}

/// A query as Grafana sends it.
fn sent(query: &str) -> String {
    let filled = query.replace("$namespace", "prod").replace("$job", "leasehold-.*");
    let filled = filled.replace("$__rate_interval", "2m");
    assert!(!filled.contains('$'), "a variable that the dashboard does not have: {query}");
    filled
}

#[tokio::test]
async fn every_query_asks_for_series_that_real_workers_show() -> anyhow::Result<()> {
    let (series, dashboard) = (emitted().await?, dashboard());
    let mut used = BTreeSet::new();
    for panel in list(&dashboard, "/panels").iter().filter(|panel| text(panel, "/type") != "row") {
        let title = text(panel, "/title");
        assert!(!list(panel, "/targets").is_empty(), "{title} shows nothing");
        for target in list(panel, "/targets") {
            let names = ask(title, &sent(text(target, "/expr")), series);
            // A legend's labels are among the series'.
            for label in text(target, "/legendFormat").split("{{").skip(1) {
                let label = label.split("}}").next().unwrap_or_default();
                let shown = names.iter().flat_map(|name| &series[name]);
                let has = OF_THE_TARGET.contains(&label) || shown.clone().any(|one| one.contains_key(label));
                assert!(has, "{title}: no series has {label}");
            }
            used.extend(names);
        }
    }
    assert!(used.len() > 20, "the panels were read: {used:?}");
    let variables = list(&dashboard, "/templating/list");
    let variables: Vec<_> = variables.iter().map(|variable| text(variable, "/name")).collect();
    assert_eq!(variables, ["datasource", "namespace", "job"]);
    // What the page says of it.
    let page = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `") && line.contains("dashboard"));
    let said: BTreeSet<_> = rows.filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect();
    let used: BTreeSet<_> = used.iter().map(|name| name.trim_end_matches("_bucket").to_owned()).collect();
    assert_eq!(said, used, "docs/metrics.md says which metrics the dashboard uses");
    Ok(())
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = list(&dashboard, "/panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut cells = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{panel}");
        for (x, y) in (0..at("w")).flat_map(|x| (0..at("h")).map(move |y| (x, y))) {
            assert!(cells.insert((at("x") + x, at("y") + y)), "{} overlaps", panel["title"]);
        }
    }
}

#[test]
fn grafanas_sidecar_finds_it_by_its_label() {
    let manifests = render("full", &[]).unwrap();
    let map = one(&manifests, "ConfigMap", "leasehold-dashboard");
    assert_eq!(text(map, "/metadata/labels/grafana_dashboard"), "1");
    assert!(map.pointer("/metadata/annotations").is_none());
    let carried: Value = serde_json::from_str(text(map, "/data/leasehold.json")).unwrap();
    assert_eq!(carried, dashboard());
    let sets = [
        "grafanaDashboard.labels.grafana_dashboard=yes",
        "grafanaDashboard.labels.team=payments",
        "grafanaDashboard.annotations.folder=leases",
    ];
    let manifests = render("full", &sets).unwrap();
    let map = one(&manifests, "ConfigMap", "leasehold-dashboard");
    assert_eq!(text(map, "/metadata/labels/grafana_dashboard"), "yes");
    assert_eq!(text(map, "/metadata/labels/team"), "payments");
    assert_eq!(map.pointer("/metadata/annotations"), Some(&json!({"folder": "leases"})));
    let off = render("full", &["grafanaDashboard.enabled=false"]).unwrap();
    assert_eq!(of_kind(&off, "ConfigMap").count(), 0);
}
