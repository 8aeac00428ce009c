//! The chart as a package: what its users do with it beside `helm install`.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{
    ALL, chart, helm, helm_on, kind, list, manifests, name, one, pod, render, rendered, repository, run, text,
};

#[test]
fn every_object_names_its_namespace_so_that_kubectl_apply_needs_none() {
    for example in ALL {
        let expected = if example == "custom" { "payments" } else { "prod" };
        for manifest in &rendered(example) {
            assert_eq!(text(manifest, "/metadata/namespace"), expected, "{example} {}", name(manifest));
        }
    }
    let applied = manifests(&helm(&["template", "leasehold", "--no-hooks"], "full", &[]).unwrap()).unwrap();
    assert!(applied.iter().all(|it| !["Job", "Pod"].contains(&kind(it))), "no hook is left to kubectl");
}

#[test]
fn pods_restart_when_a_setting_changes_and_not_for_another_version_of_the_chart() {
    let templates = |manifests: Vec<Value>| -> Vec<Value> {
        manifests.iter().filter_map(|it| it.pointer("/spec/template").cloned()).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("leasehold");
    copy(&chart(), &newer);
    let about = std::fs::read_to_string(newer.join("Chart.yaml")).unwrap();
    std::fs::write(newer.join("Chart.yaml"), about.replace("\nversion: 0.1.0", "\nversion: 0.1.1+build"))
        .unwrap();
    let next = manifests(&helm_on(&newer, &["template", "leasehold"], "full", &[]).unwrap()).unwrap();
    let labels = "/metadata/labels/helm.sh~1chart";
    assert!(next.iter().all(|it| text(it, labels) == "leasehold-0.1.1_build"), "it is another version");
    assert_eq!(templates(next), templates(rendered("full")));

    let changed = render("full", &["leaderElection.region=eu-2"]).unwrap();
    let differ = templates(changed).into_iter().zip(templates(rendered("full")));
    assert_eq!(differ.filter(|(new, old)| new != old).count(), 4, "both campaigners and both hooks");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}

#[test]
fn names_that_are_cut_or_lose_their_dots_stay_apart_and_fit() {
    let names = |release: &str| -> Vec<String> {
        let text = helm(&["template", release], "sqlite", &[]).unwrap();
        manifests(&text).unwrap().iter().map(|it| name(it).to_owned()).collect()
    };
    let long = "a-release-with-a-name-that-is-as-long-as-helm-allows";
    let (one, other) = (names(&format!("{long}1")), names(&format!("{long}2")));
    assert!(one.iter().all(|name| name.len() <= 63 && !other.contains(name)), "{one:?} {other:?}");
    assert!(one.iter().any(|name| name.starts_with("a-release-with-a-name-that-is-")), "{one:?}");
    let (dots, dashes) = (names("a.b"), names("a-b"));
    assert!(dots.iter().all(|name| !name.contains('.') && !dashes.contains(name)), "{dots:?} {dashes:?}");
    assert!(names("short").iter().all(|name| name.starts_with("short-leasehold-")));
}

#[test]
fn as_a_part_of_another_chart_it_takes_the_parents_globals_and_can_be_turned_off() {
    let parent = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(parent.path().join(name), text).unwrap();
    write(
        "Chart.yaml",
        "apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies:\n  - name: leasehold\n    version: '*'\n    \
         condition: leasehold.enabled\n",
    );
    std::fs::create_dir(parent.path().join("charts")).unwrap();
    std::os::unix::fs::symlink(chart().canonicalize().unwrap(), parent.path().join("charts/leasehold"))
        .unwrap();
    let values = std::fs::read_to_string(chart().join("ci/k8s-values.yaml")).unwrap();
    let inner: String = values.lines().map(|line| format!("  {line}\n")).collect();
    let global = "global:\n  imageRegistry: registry.example.com\n  imagePullSecrets: [{name: shared}]\n";
    write(
        "values.yaml",
        &format!("{global}leasehold:\n  enabled: true\n  podSecurityContext: {{runAsUser: null}}\n{inner}"),
    );

    let on = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let args: Vec<_> = ["template", "app", "--namespace=prod"].into_iter().chain(sets).collect();
        manifests(&run(&args, parent.path()).unwrap()).unwrap()
    };
    let whole = on(&[]);
    let forwarder = pod(one(&whole, "Deployment", "app-leasehold-outbox-forwarder")).unwrap();
    assert_eq!(text(&list(forwarder, "/containers")[0], "/image"), "registry.example.com/leasehold:0.1.0");
    assert_eq!(list(forwarder, "/imagePullSecrets"), [json!({"name": "shared"})]);
    assert!(forwarder["securityContext"].get("runAsUser").is_none());
    assert_eq!(on(&["leasehold.enabled=false"]), Vec::<Value>::new());
}

#[test]
fn two_renders_are_identical_for_every_kubernetes_that_the_chart_allows() {
    for example in ALL {
        let first = helm(&["template", "leasehold"], example, &[]).unwrap();
        assert_eq!(first, helm(&["template", "leasehold"], example, &[]).unwrap(), "{example}");
    }
    let about = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    assert!(about.contains("kubeVersion: \">=1.27.0-0\""), "{about}");
    let newest = helm(&["template", "leasehold"], "custom", &[]).unwrap();
    for minor in 27..=36 {
        let version = format!("--kube-version=1.{minor}.0");
        assert_eq!(helm(&["template", "leasehold", &version], "custom", &[]).unwrap(), newest, "1.{minor}");
    }
    let older = helm(&["template", "leasehold", "--kube-version=1.26.9"], "custom", &[]).unwrap_err();
    assert!(older.contains("kubeVersion"), "{older}");
}

#[test]
fn the_examples_are_those_of_the_folder() {
    let folder = std::fs::read_dir(repository().join("deploy/helm/leasehold/ci")).unwrap();
    let mut files: Vec<_> = folder.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    let mut named = ALL.map(|example| format!("{example}-values.yaml"));
    files.sort_unstable();
    named.sort_unstable();
    assert_eq!(files, named);
}
