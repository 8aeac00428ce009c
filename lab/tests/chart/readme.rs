//! The chart's documentation: its README lists every value, and its figures are true.

use crate::common::{chart, leasehold, repository};

/// The table of values.yaml: a line that begins with `# --` describes the value below it.
fn table(values: &str) -> String {
    let (mut path, mut about, mut rows) = (Vec::<(usize, &str)>::new(), None, Vec::new());
    for line in values.lines() {
        let bare = line.trim_start();
        if let Some(text) = bare.strip_prefix("# -- ") {
            about = Some(text);
        }
        let Some((key, value)) = bare.split_once(':').filter(|_| !bare.starts_with('#')) else { continue };
        let depth = line.len() - bare.len();
        path.retain(|(above, _)| *above < depth);
        path.push((depth, key));
        let value = value.trim();
        if value.is_empty() {
            assert!(about.is_none(), "{key} is a group: describe its values");
            continue;
        }
        let about = about.take().unwrap_or_else(|| panic!("{key} is not described in values.yaml"));
        let keys: Vec<_> = path.iter().map(|(_, key)| *key).collect();
        rows.push(format!("| `{}` | `{value}` | {about} |\n", keys.join(".")));
    }
    assert!(rows.len() > 60, "values.yaml was read");
    format!("| value | default | meaning |\n| --- | --- | --- |\n{}", rows.concat())
}

#[test]
fn its_table_is_that_of_values_yaml() {
    let read = |name: &str| std::fs::read_to_string(chart().join(name)).unwrap();
    let (table, readme) = (table(&read("values.yaml")), read("README.md"));
    let (before, rest) = readme.split_once("<!-- values -->\n").expect("the table's beginning");
    let (listed, after) = rest.split_once("<!-- /values -->").expect("the table's end");
    if std::env::var_os("LEASEHOLD_WRITE").is_some() {
        let whole = format!("{before}<!-- values -->\n{table}<!-- /values -->{after}");
        return std::fs::write(chart().join("README.md"), whole).unwrap();
    }
    assert_eq!(listed, table, "run this test with LEASEHOLD_WRITE=1 to write it anew");
}

#[test]
fn every_value_that_a_page_sets_exists() {
    let values = table(&std::fs::read_to_string(chart().join("values.yaml")).unwrap());
    let mut seen = 0;
    for page in ["docs/kubernetes.md", "docs/operating.md", "deploy/helm/leasehold/README.md"] {
        let page = std::fs::read_to_string(repository().join(page)).unwrap();
        for set in page.split("--set ").skip(1) {
            let (key, _) = set.split_once('=').expect("--set KEY=VALUE");
            assert!(values.contains(&format!("| `{key}` |")), "there is no value {key}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "the pages were read");
}

#[test]
fn the_costs_on_the_page_are_those_of_the_plan() {
    let plan = leasehold().args(["plan", "--ttl", "15s", "--standbys", "2", "--json"]).output().unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let load = |key: &str| plan["load_per_second"][key].as_f64().unwrap();
    let (writes, reads) = (load("leader_writes"), load("standbys_reads_watching"));
    let page = std::fs::read_to_string(repository().join("docs/kubernetes.md")).unwrap();
    let said = format!("{writes} writes/s, {reads} reads/s");
    assert_eq!(page.matches(&said).count(), 3, "{said} for k8s, etcd and postgres");
}
