//! Rules for the workspace, read from `cargo metadata`, offline.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Which package of ours may depend on which (development dependencies aside, which ship nowhere).
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("lease-core", &[]),
    ("lease-sqlite", &["lease-core"]),
    ("lease-postgres", &["lease-core"]),
    ("lease-etcd", &["lease-core"]),
    ("lease-k8s", &["lease-core"]),
    ("lease-judge", &["lease-core"]),
    ("lease-conformance", &["lease-core", "lease-judge"]),
    (
        "lease-stores",
        &[
            "lease-conformance",
            "lease-core",
            "lease-etcd",
            "lease-judge",
            "lease-k8s",
            "lease-postgres",
            "lease-sqlite",
            "lease-testbed",
        ],
    ),
    ("lease-testbed", &[]),
    ("lease-node", &["lease-testbed"]),
    ("lease-settings", &["lease-core"]),
    ("lease-worker-common", &["lease-core", "lease-postgres", "lease-settings", "lease-sqlite"]),
    (
        "lease-spendguard",
        &["lease-core", "lease-postgres", "lease-settings", "lease-sqlite", "lease-worker-common"],
    ),
    (
        "leasehold",
        &[
            "lease-core",
            "lease-etcd",
            "lease-k8s",
            "lease-postgres",
            "lease-settings",
            "lease-spendguard",
            "lease-sqlite",
            "lease-worker-common",
        ],
    ),
    ("lease-examples", &["lease-core", "lease-sqlite"]),
    (
        "lease-fuzz",
        &[
            "lease-core",
            "lease-etcd",
            "lease-k8s",
            "lease-postgres",
            "lease-settings",
            "lease-spendguard",
            "lease-worker-common",
            "leasehold",
        ],
    ),
    (
        "lease-lab",
        &[
            "lease-conformance",
            "lease-core",
            "lease-etcd",
            "lease-judge",
            "lease-k8s",
            "lease-node",
            "lease-postgres",
            "lease-spendguard",
            "lease-sqlite",
            "lease-stores",
            "lease-testbed",
            "lease-worker-common",
        ],
    ),
    (
        "lease-benches",
        &[
            "lease-conformance",
            "lease-core",
            "lease-etcd",
            "lease-k8s",
            "lease-lab",
            "lease-postgres",
            "lease-spendguard",
            "lease-sqlite",
            "lease-testbed",
            "lease-worker-common",
        ],
    ),
];

/// Licences under which anybody may ship us; one of a package's alternatives must be here.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// For this machine's platform: the packages of other ones need not be here.
fn metadata() -> Metadata {
    let rustc = std::process::Command::new("rustc").arg("-vV").output().expect("rustc says its version");
    let version = String::from_utf8(rustc.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let options = ["--offline", "--locked", "--filter-platform", host].map(str::to_owned);
    MetadataCommand::new().other_options(options).exec().expect("cargo metadata works offline")
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    metadata.workspace_packages()
}

#[test]
fn packages_depend_only_on_what_the_architecture_allows() {
    let metadata = metadata();
    let names: BTreeSet<_> = ours(&metadata).iter().map(|package| package.name.to_string()).collect();
    let listed: BTreeSet<_> = MAY_DEPEND_ON.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, listed, "each package of the workspace has a row in MAY_DEPEND_ON");
    for package in ours(&metadata) {
        let allowed =
            MAY_DEPEND_ON.iter().find(|(name, _)| *name == package.name.as_str()).expect("listed").1;
        for dependency in &package.dependencies {
            let shipped = dependency.kind != DependencyKind::Development;
            let inside = names.contains(&dependency.name);
            assert!(
                !shipped || !inside || allowed.contains(&dependency.name.as_str()),
                "{} must not depend on {}",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn each_direct_dependency_has_one_version() {
    let metadata = metadata();
    let direct: BTreeSet<_> =
        ours(&metadata).iter().flat_map(|package| &package.dependencies).map(|d| d.name.as_str()).collect();
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let members: BTreeSet<_> = metadata.workspace_members.iter().collect();
    for node in resolve.nodes.iter().filter(|node| members.contains(&node.id)) {
        for dependency in &node.deps {
            let package = &metadata[&dependency.pkg];
            if direct.contains(package.name.as_str()) {
                versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
            }
        }
    }
    assert!(versions.len() > 10, "the graph was read");
    let doubled: Vec<_> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(doubled.is_empty(), "direct dependencies in several versions: {doubled:?}");
}

#[test]
fn dependencies_have_licences_that_let_us_ship() {
    let metadata = metadata();
    let mut refused = Vec::new();
    for package in &metadata.packages {
        let licence = package.license.clone().unwrap_or_default().replace('/', " OR ");
        // "A OR (B AND C)": every part of one alternative must be allowed.
        let allowed = licence.split(" OR ").any(|alternative| {
            let parts = alternative.trim_matches(['(', ')', ' ']).split(" AND ");
            let bare = |part: &str| {
                part.split(" WITH ").next().unwrap_or(part).trim_matches(['(', ')', ' ']).to_owned()
            };
            parts.map(bare).all(|part| LICENCES.contains(&part.as_str()))
        });
        if !allowed {
            refused.push(format!("{} {}: {licence:?}", package.name, package.version));
        }
    }
    assert!(metadata.packages.len() > 50, "the graph was read");
    assert!(refused.is_empty(), "not allowed: {refused:#?}");
}

#[test]
fn nothing_brings_another_tls_than_rustls() {
    let metadata = metadata();
    let other = ["openssl", "openssl-sys", "native-tls", "aws-lc-sys", "boring-sys"];
    let resolved: BTreeSet<_> =
        metadata.resolve.as_ref().expect("a resolved graph").nodes.iter().map(|node| &node.id).collect();
    let found: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| resolved.contains(&package.id) && other.contains(&package.name.as_str()))
        .map(|package| package.name.to_string())
        .collect();
    assert!(found.is_empty(), "use rustls with ring: {found:?}");
}

/// SQLSTATEs of class LH are Leasehold's own.
#[test]
fn each_of_our_sqlstates_means_one_thing() {
    fn scripts(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                scripts(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                found.push(path);
            }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    scripts(root, &mut found);
    let mut raised = BTreeMap::new();
    for path in found {
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            let Some((_, code)) = line.split_once("ERRCODE = 'LH") else { continue };
            let code = code.split('\'').next().expect("a code").to_owned();
            let here = format!("{}:{}", path.display(), number + 1);
            if let Some(there) = raised.insert(code.clone(), here.clone()) {
                panic!("LH{code} is raised at {there} and at {here}");
            }
        }
    }
    assert!(raised.len() >= 3, "the scripts were read: {raised:?}");
}

/// What the author of a backend outside this tree builds to judge it: no client of a store, no TLS, no certificates.
#[test]
fn the_suite_and_the_proxy_need_no_stores_client() {
    let kit = ["lease-conformance", "lease-testbed"].map(|package| format!("--package={package}"));
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges=normal,build", "--prefix=none", "--format={p}"])
        .args(["--no-default-features", "--features=lease-testbed/proxy"])
        .args(kit)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let text = String::from_utf8(tree.stdout).expect("text");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let packages: BTreeSet<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(
        packages.contains("proptest") && packages.contains("loona-hpack"),
        "not the whole kit: {packages:?}"
    );
    let heavy = ["etcd-client", "k8s-openapi", "kube", "rcgen", "reqwest", "ring", "rustls", "sqlx", "tonic"];
    let found: Vec<_> = heavy.iter().filter(|package| packages.contains(**package)).collect();
    assert!(
        found.is_empty(),
        "the suite with the proxy alone would build {found:?}; put them behind a feature"
    );
}
