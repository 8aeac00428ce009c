//! The alerts ask for metrics and labels that real workers emit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease_testbed::{Process, free_port, wait_for};
use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};

use crate::common::{leasehold, list, one, render, repository, text};

/// A metric's name, and each of its series' labels.
type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// The labels that Prometheus itself adds to each series of a ServiceMonitor.
const OF_THE_TARGET: [&str; 2] = ["namespace", "job"];

fn read(page: &str, series: &mut Series) {
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let labels =
            pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect();
        series.entry(name.to_owned()).or_default().push(labels);
    }
}

/// The metrics that the real workers show from the start, with an empty lease file.
async fn emitted() -> anyhow::Result<Series> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let leases = file("leases.sqlite");
    let init = leasehold()
        .args(["init", "--new", "outbox-forwarder", "ttl-sweeper", "--sqlite-path", &leases])
        .status()?;
    anyhow::ensure!(init.success(), "init failed");
    let (nowhere, outbox, socket) = ("postgres://me@127.0.0.1:1/x", file("outbox.sqlite"), file("s.sock"));
    let (mut series, client) = (Series::new(), lease_worker_common::http_client(Duration::from_secs(5))?);
    for args in [
        vec![
            "outbox-forwarder",
            "--outbox-url",
            &outbox,
            "--ingest-url",
            "http://127.0.0.1:1",
            "--sqlite-path",
            &leases,
        ],
        vec!["ttl-sweeper", "--sweeper-db-url", nowhere, "--sqlite-path", &leases],
        vec!["ledger", "--ledger-db-url", nowhere, "--grpc-listen", "127.0.0.1:0"],
        vec![
            "sidecar",
            "--ledger-url",
            "http://127.0.0.1:1",
            "--fencing-scope",
            "s",
            "--tenant",
            "t",
            "--socket",
            &socket,
            "--standby",
            "true",
        ],
    ] {
        let listen = format!("127.0.0.1:{}", free_port()?);
        let program = leasehold().get_program().to_owned();
        let worker =
            Process::command(program)?.arg("worker").args(&args).args(["--listen", &listen]).spawn()?;
        let campaigns = args[0] == "outbox-forwarder" || args[0] == "ttl-sweeper";
        let page = wait_for("its metrics are shown", Duration::from_secs(60), async || {
            let page = client
                .get(format!("http://{listen}/metrics"))
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let page = page.text().await.map_err(|error| error.to_string())?;
            let complete = !campaigns || page.contains("spendguard_lease_takeovers_total{");
            if complete { Ok(page) } else { Err(page) }
        });
        let page = page.await.map_err(|error| error.context(worker.lines().join("\n")))?;
        read(&page, &mut series);
    }
    Ok(series)
}

/// A label, its value, and whether it must be equal.
type Matcher = (String, String, bool);

struct Selectors(Vec<(String, Vec<Matcher>)>);

impl ExprVisitor for Selectors {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        let selector = match expression {
            Expr::VectorSelector(selector) => selector,
            Expr::MatrixSelector(matrix) => &matrix.vs,
            _ => return Ok(true),
        };
        let matchers = selector.matchers.matchers.iter();
        let matchers = matchers.map(|m| (m.name.clone(), m.value.clone(), m.op.to_string() == "="));
        self.0.push((selector.name.clone().ok_or("a selector without a name")?, matchers.collect()));
        Ok(true)
    }
}

#[tokio::test]
async fn every_alert_asks_for_series_that_real_workers_show() -> anyhow::Result<()> {
    let series = emitted().await?;
    let mut seen = BTreeSet::new();
    for example in ["full", "shared"] {
        let manifests = tokio::task::spawn_blocking(move || crate::common::rendered(example)).await?;
        let rules = list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
        for rule in rules {
            let (alert, source) = (text(rule, "/alert"), text(rule, "/expr"));
            let expression =
                parser::parse(source).map_err(|error| anyhow::anyhow!("{alert}: {error}: {source}"))?;
            let mut selectors = Selectors(Vec::new());
            walk_expr(&mut selectors, &expression).map_err(anyhow::Error::msg)?;
            assert!(!selectors.0.is_empty(), "{alert} asks for nothing");
            for (name, matchers) in selectors.0 {
                let shown = series
                    .get(&name)
                    .unwrap_or_else(|| panic!("{alert}: no worker shows {name}: {series:#?}"));
                let fits = |labels: &BTreeMap<String, String>| {
                    let own = matchers.iter().filter(|(label, ..)| !OF_THE_TARGET.contains(&label.as_str()));
                    own.into_iter().all(|(label, value, equal)| *equal && labels.get(label) == Some(value))
                };
                assert!(shown.iter().any(fits), "{alert}: no series of {name} has {matchers:?}: {shown:?}");
                for target in OF_THE_TARGET {
                    assert!(
                        matchers.iter().any(|(label, ..)| label == target),
                        "{alert}: another release's {name} counts"
                    );
                }
            }
            // The labels that it groups by exist too.
            if source.contains("by (lease)") {
                assert!(
                    series["spendguard_lease_takeovers_total"]
                        .iter()
                        .all(|labels| labels.contains_key("lease"))
                );
            }
            seen.insert(alert.to_owned());
        }
    }
    let expected = [
        "SpendGuardLeaseFlapping",
        "SpendGuardOutboxLagHigh",
        "SpendGuardOutboxNoLeader",
        "SpendGuardSidecarNotAcquiring",
        "SpendGuardSidecarTakeoverStorm",
        "SpendGuardSweepLagHigh",
        "SpendGuardSweeperNoLeader",
    ];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    let runbook = std::fs::read_to_string(repository().join("docs/operating.md"))?;
    for alert in expected {
        assert!(
            runbook.contains(&format!("\n### {alert}\n")),
            "docs/operating.md doesn't say what to do on {alert}"
        );
    }
    Ok(())
}

#[test]
fn alerts_of_roles_that_do_not_run_are_left_out() {
    let sets = ["sidecar.enabled=false", "ledger.enabled=false", "ttlSweeper.enabled=false"];
    let manifests = render("full", &sets).unwrap();
    let rules = list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
    let alerts: Vec<_> = rules.iter().map(|rule| text(rule, "/alert")).collect();
    assert_eq!(alerts, ["SpendGuardLeaseFlapping", "SpendGuardOutboxNoLeader", "SpendGuardOutboxLagHigh"]);
}
