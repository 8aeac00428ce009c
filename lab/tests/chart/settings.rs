//! The chart and the binary agree: on names, on arguments, and on which times can't be.

use std::path::Path;

use serde_json::Value;

use crate::common::{EXAMPLES, containers, leasehold, list, pod, render, rendered, strings, text};

const MOUNTED: &str = "/etc/leasehold/";

const TOKEN: &str = "a-token-0123456789abcdef0123456789";
/// Its hash, by `sha256sum`, and all that anybody may do.
const CALLERS: &str = "[anybody]\nmay = ['forward', 'sidecar']\ntenants = ['*']\ntokenSha256 = \
    ['2bdf04e7588d5feadb2c6a8a68df8620bc4a13c1e02e5073044bae1a2a73b11a']\n";

/// A container's environment, with its mounted files in `folder`. Those of databases hold the `url` of their path.
pub(crate) fn environment(
    container: &Value,
    folder: &Path,
    url: impl Fn(&str) -> String,
) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for variable in list(container, "/env") {
        let (name, value) = (text(variable, "/name"), text(variable, "/value"));
        let value = match value.strip_prefix(MOUNTED) {
            Some(path) => {
                let file = folder.join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                let content = match name {
                    name if name.ends_with("_ACCESS_FILE") => CALLERS.to_owned(),
                    name if name.ends_with("_TOKEN_FILE") => TOKEN.to_owned(),
                    _ => url(path),
                };
                std::fs::write(&file, content).unwrap();
                file.display().to_string()
            }
            None if variable.get("valueFrom").is_some() => "from-the-pod".to_owned(),
            None => value.to_owned(),
        };
        variables.push((name.to_owned(), value));
    }
    variables
}

#[test]
fn the_binary_knows_every_variable_and_argument_of_every_container() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for example in EXAMPLES {
        let manifests = rendered(example);
        for container in manifests.iter().filter_map(pod).flat_map(containers) {
            let variables = environment(container, folder.path(), |_| "postgres://me@127.0.0.1/x".to_owned());
            let leases = folder.path().join("leases.sqlite");
            let config = leasehold()
                .arg("config")
                .envs(variables)
                .env("SPENDGUARD_LEADER_SQLITE_PATH", &leases)
                .output()
                .unwrap();
            let complaint = String::from_utf8_lossy(&config.stderr).into_owned();
            assert!(config.status.success(), "{example} {container:#}: {complaint}");
            let help = leasehold().args(strings(list(container, "/args"))).arg("--help").output().unwrap();
            assert!(
                help.status.success(),
                "{example} {container:#}: {}",
                String::from_utf8_lossy(&help.stderr)
            );
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} containers");
}

#[test]
fn the_chart_refuses_exactly_the_times_that_the_binary_refuses() {
    const KEYS: [(&str, &str); 5] = [
        ("ttlMs", "SPENDGUARD_LEADER_LEASE_TTL_MS"),
        ("renewIntervalMs", "SPENDGUARD_LEADER_RENEW_INTERVAL_MS"),
        ("retryIntervalMs", "SPENDGUARD_LEADER_RETRY_INTERVAL_MS"),
        ("stopGraceMs", "SPENDGUARD_LEADER_STOP_GRACE_MS"),
        ("maxTtlMs", "SPENDGUARD_LEADER_MAX_TTL_MS"),
    ];
    let mut cases = Vec::new();
    for ttl in [99, 100, 2_999, 3_000, 15_000, 86_400_000, 86_400_001_i64] {
        let (third, least) = (ttl / 3, ttl / 15);
        let room = ttl - ttl / 500 - 2 * third;
        // Each of the others at its edges, and at its default while one of them is.
        let others: &[[Option<i64>; 4]] = &[
            [None, None, None, None],
            [Some(0), None, None, None],
            [Some(least), None, None, None],
            [Some(least + 1), None, None, None],
            [Some(third), Some(third), None, None],
            [Some(third + 1), None, None, None],
            [Some(third), Some(third + 1), None, None],
            [None, Some(third + 1), None, None],
            [None, Some(0), None, None],
            [Some(third), None, Some(room), None],
            [Some(third), None, Some(room + 2), None],
            [None, None, None, Some(ttl - 1)],
            [None, None, None, Some(ttl)],
        ];
        cases.extend(others.iter().map(|&[renew, retry, grace, max]| [Some(ttl), renew, retry, grace, max]));
    }
    let mut refused = 0;
    for case in &cases {
        let sets = KEYS.iter().zip(case).map(|((key, _), value)| {
            format!("leaderElection.{key}={}", value.map_or("null".to_owned(), |value| value.to_string()))
        });
        let sets: Vec<_> = sets.collect();
        let chart = render("postgres", &sets.iter().map(String::as_str).collect::<Vec<_>>());
        let variables =
            KEYS.iter().zip(case).filter_map(|((_, name), value)| Some((*name, value.as_ref()?.to_string())));
        let args = ["config", "--mode", "postgres", "--postgres-url", "postgres://me@127.0.0.1/x"];
        let binary = leasehold().args(args).envs(variables).output().unwrap();
        assert_eq!(
            chart.is_ok(),
            binary.status.success(),
            "{sets:?}: chart {:?}, binary {}",
            chart.err(),
            String::from_utf8_lossy(&binary.stderr)
        );
        refused += usize::from(!binary.status.success());
    }
    assert!(refused > 20 && refused < cases.len() - 20, "{refused} of {} are refused", cases.len());
}
