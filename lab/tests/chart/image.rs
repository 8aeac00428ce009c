//! The image's recipe, which can be checked without a container engine.

use std::fs;

use crate::common::{EXAMPLES, containers, pod, rendered, repository};

fn recipe() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("deploy/image/Containerfile")).unwrap();
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("{line:?} is no instruction")))
        .map(|(word, rest)| (word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

fn all<'a>(recipe: &'a [(String, String)], word: &str) -> Vec<&'a str> {
    recipe.iter().filter(|(found, _)| found == word).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn the_toolchain_is_the_repositorys_and_what_ships_is_the_program_alone() {
    let recipe = recipe();
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let channel =
        toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    let from = all(&recipe, "FROM");
    assert!(from[0].starts_with(&format!("docker.io/library/rust:{channel}-alpine")), "{from:?}");
    assert_eq!(from[1..], ["scratch"], "{from:?}");
    let last = recipe.iter().rposition(|(word, _)| word == "FROM").unwrap();
    let words: Vec<_> = recipe[last + 1..].iter().map(|(word, _)| word.as_str()).collect();
    assert!(words.iter().all(|word| ["COPY", "USER", "ENTRYPOINT", "LABEL"].contains(word)), "{words:?}");
    let build = all(&recipe, "RUN").join("\n");
    for part in ["protoc", "--locked", "-p leasehold", "--target", "linux-musl"] {
        assert!(build.contains(part), "{part} is missing in {build}");
    }
}

#[test]
fn the_charts_image_is_of_the_version_that_is_built_here() {
    let chart = fs::read_to_string(repository().join("deploy/helm/leasehold/Chart.yaml")).unwrap();
    assert!(chart.contains(&format!("appVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{chart}");
}

#[test]
fn it_runs_as_a_number_that_is_not_root() {
    let recipe = recipe();
    let user = all(&recipe, "USER");
    let (user, group) = user[0].split_once(':').unwrap();
    let (user, group): (u32, u32) = (user.parse().unwrap(), group.parse().unwrap());
    assert!(user > 0 && group > 0);
    // The chart runs its pods as the same.
    let manifests = rendered("etcd");
    let pods: Vec<_> = manifests.iter().filter_map(pod).collect();
    assert!(pods.iter().all(|pod| pod["securityContext"]["runAsUser"] == user));
}

#[test]
fn its_entry_point_is_the_program_and_the_charts_containers_only_give_arguments() {
    let recipe = recipe();
    assert_eq!(all(&recipe, "ENTRYPOINT"), ["[\"/usr/local/bin/leasehold\"]"]);
    let copied = all(&recipe, "COPY");
    assert!(copied.last().unwrap().ends_with(" /usr/local/bin/leasehold"), "{copied:?}");
    for example in EXAMPLES {
        for container in rendered(example).iter().filter_map(pod).flat_map(containers) {
            assert!(container.get("command").is_none() && container.get("args").is_some(), "{container}");
        }
    }
}

#[test]
fn what_it_copies_is_there_and_is_not_ignored() {
    let recipe = recipe();
    let ignore = fs::read_to_string(repository().join("deploy/image/Containerfile.dockerignore")).unwrap();
    let kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"), "what is not named is not sent: {ignore}");
    let cargo = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    for path in &kept {
        assert!(repository().join(path).exists(), "{path} is not there");
    }
    // Cargo reads every member's manifest, whatever it builds.
    let members = cargo.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(kept.contains(&member), "{member} is a member of the workspace and is ignored");
    }
    assert!(all(&recipe, "COPY")[0].starts_with(". "), "the context is the repository");
}
