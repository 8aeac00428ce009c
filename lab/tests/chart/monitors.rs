//! ServiceMonitor and PodMonitor: which pages are scraped, how, and under which job.

use serde_json::{Value, json};

use crate::common::{list, of_kind, one, render, rendered, text};

const TLS: [&str; 2] = ["canonicalIngest.tls.secretName=tls", "outboxForwarder.ingestTls.secretName=tls"];

/// The endpoints of the one monitor that an example has with these values.
fn endpoints(sets: &[&str]) -> (String, Vec<Value>) {
    let manifests = render("full", sets).unwrap_or_else(|error| panic!("{sets:?}: {error}"));
    let monitors: Vec<_> = ["ServiceMonitor", "PodMonitor"]
        .into_iter()
        .flat_map(|kind| of_kind(&manifests, kind).map(move |monitor| (kind, monitor)))
        .collect();
    let [(kind, monitor)] = monitors[..] else { panic!("not one monitor: {monitors:?}") };
    let at = if kind == "PodMonitor" { "/spec/podMetricsEndpoints" } else { "/spec/endpoints" };
    assert_eq!(text(monitor, "/spec/selector/matchLabels/app.kubernetes.io~1instance"), "leasehold");
    (kind.to_owned(), list(monitor, at).to_vec())
}

fn actions(endpoint: &Value) -> Vec<(&str, &str)> {
    let relabelings = list(endpoint, "/relabelings").iter();
    relabelings.map(|one| (text(one, "/regex"), text(one, "/action"))).collect()
}

const POD: [&str; 2] = ["serviceMonitor.enabled=false", "podMonitor.enabled=true"];

#[test]
fn a_pod_monitor_gives_the_job_that_the_alerts_ask_for() {
    for (sets, scrapes) in [(POD.to_vec(), 1), ([&POD[..], &TLS].concat(), 2)] {
        let (kind, endpoints) = endpoints(&sets);
        assert_eq!((kind.as_str(), endpoints.len()), ("PodMonitor", scrapes));
        for endpoint in &endpoints {
            assert_eq!(text(endpoint, "/path"), "/metrics");
            let named = list(endpoint, "/relabelings").last().unwrap();
            assert_eq!(
                named,
                &json!({
                    "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"],
                    "targetLabel": "job", "replacement": "leasehold-$1"
                })
            );
        }
    }
    let manifests = rendered("full");
    let rules = list(one(&manifests, "PrometheusRule", "leasehold"), "/spec/groups/0/rules");
    let asks = |job: &str| rules.iter().any(|rule| text(rule, "/expr").contains(&format!("job=\"{job}\"")));
    assert!(asks("leasehold-outbox-forwarder") && asks("leasehold-sidecar"));
}

#[test]
fn each_page_is_scraped_once_and_ingests_by_https_where_it_speaks_tls() {
    let service = ["serviceMonitor.enabled=true", "podMonitor.enabled=false"];
    for monitor in [service, POD] {
        let (_, plain) = endpoints(&monitor);
        assert!(
            plain.len() == 1
                && plain[0].get("scheme").is_none()
                && actions(&plain[0]).iter().all(|(_, action)| action.is_empty())
        );
        let (_, secured) = endpoints(&[&monitor[..], &TLS].concat());
        assert_eq!(secured.len(), 2);
        assert_eq!(actions(&secured[0])[0], ("canonical-ingest", "drop"));
        assert_eq!(actions(&secured[1])[0], ("canonical-ingest", "keep"));
        assert_eq!((text(&secured[0], "/scheme"), text(&secured[1], "/scheme")), ("", "https"));
    }
}

#[test]
fn with_an_authority_ingests_certificate_is_verified() {
    for (key, monitor) in
        [("serviceMonitor", ["serviceMonitor.enabled=true", "podMonitor.enabled=false"]), ("podMonitor", POD)]
    {
        let tls_config = |more: &[String]| {
            let more: Vec<_> = more.iter().map(String::as_str).collect();
            let (_, endpoints) = endpoints(&[&monitor[..], &TLS, &more].concat());
            endpoints[1]["tlsConfig"].clone()
        };
        assert_eq!(tls_config(&[]), json!({"insecureSkipVerify": true}));
        let secret = format!("{key}.ingestTls.secretName=authority");
        assert_eq!(
            tls_config(std::slice::from_ref(&secret)),
            json!({
                "ca": {"secret": {"name": "authority", "key": "ca.crt"}},
                "serverName": "leasehold-canonical-ingest"
            })
        );
        let more = [
            secret,
            format!("{key}.ingestTls.caKey=root.pem"),
            format!("{key}.ingestTls.serverName=in.example"),
        ];
        assert_eq!(
            tls_config(&more),
            json!({"ca": {"secret": {"name": "authority", "key": "root.pem"}}, "serverName": "in.example"})
        );
    }
}

#[test]
fn what_would_count_twice_or_verify_nothing_is_refused() {
    for (sets, part) in [
        (&["podMonitor.enabled=true"][..], "every pod would be scraped twice"),
        (&["serviceMonitor.ingestTls.secretName=x"], "serviceMonitor.ingestTls.secretName is \"x\""),
        (&["podMonitor.ingestTls.secretName=x"], "canonical-ingest's pages are at http"),
        (&["serviceMonitor.ingestTls.caKey="], "caKey"),
        (&["prometheusRule.runbookUrl=docs/operating.md"], "runbookUrl"),
        (&["podMonitor.interval=soon"], "interval"),
    ] {
        let complaint = render("full", sets).expect_err(part);
        assert!(complaint.contains(part), "{sets:?}: {complaint}");
    }
}

#[test]
fn prometheus_selects_each_by_the_labels_that_are_set() {
    let sets = [
        "serviceMonitor.labels.release=mine",
        "serviceMonitor.interval=15s",
        "prometheusRule.labels.release=mine",
    ];
    let manifests = render("full", &sets).unwrap();
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        assert_eq!(text(one(&manifests, kind, "leasehold"), "/metadata/labels/release"), "mine", "{kind}");
    }
    assert_eq!(text(one(&manifests, "ServiceMonitor", "leasehold"), "/spec/endpoints/0/interval"), "15s");
    let sets = [&POD[..], &["podMonitor.labels.release=mine", "podMonitor.interval=15s"]].concat();
    let manifests = render("full", &sets).unwrap();
    let monitor = one(&manifests, "PodMonitor", "leasehold");
    assert_eq!(text(monitor, "/metadata/labels/release"), "mine");
    assert_eq!(text(monitor, "/spec/podMetricsEndpoints/0/interval"), "15s");
}
