//! Guard and workers' SQL, wrong on purpose in one place each: an existing test must see every one (0093).
//!
//! The patches are applied to a copy of the sources, all at once: each asks a file whose turn it is. So one build serves
//! them all. That build takes minutes, so it is a part of `make soak`; that each patch still fits is tested always.

mod patches;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use patches::{Change, PATCHES, Patch};

/// A test that takes longer hangs, which is a way to fail.
const LIMIT_S: &str = "180";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The source with the patch in it, which takes effect while the file `turn` has its name.
fn applied(patch: &Patch, source: &str, turn: &Path) -> String {
    let wrong = format!("std::fs::read_to_string({turn:?}).is_ok_and(|turn| turn == {:?})", patch.name);
    let (find, with) = match &patch.change {
        Change::Code { find, with } => (*find, with.replace("WRONG", &wrong)),
        Change::Text { include, find, with } => {
            let text = format!(
                "{{ let text: &'static str = {include}; if {wrong} {{ Box::leak(text.replacen({find:?}, {with:?}, \
                 1).into_boxed_str()) }} else {{ text }} }}"
            );
            (*include, text)
        }
    };
    assert_eq!(source.matches(find).count(), 1, "{}: {find:?} must be once in {}", patch.name, patch.file);
    source.replacen(find, &with, 1)
}

/// Every patched file, by its path.
fn patched(turn: &Path) -> BTreeMap<&'static str, String> {
    let mut files = BTreeMap::new();
    for patch in PATCHES {
        let source = files.remove(patch.file).unwrap_or_else(|| read(&root().join(patch.file)));
        files.insert(patch.file, applied(patch, &source, turn));
    }
    files
}

#[test]
fn each_patch_still_fits() {
    let names: BTreeSet<_> = PATCHES.iter().map(|patch| patch.name).collect();
    assert_eq!(names.len(), PATCHES.len(), "two patches of one name");
    patched(Path::new("turn"));
    for patch in PATCHES {
        if let Change::Text { include, find, .. } = &patch.change {
            let name = include.split('"').nth(1).expect("a file's name");
            let text = read(&root().join(patch.file).with_file_name("").join(name));
            assert_eq!(text.matches(find).count(), 1, "{}: {find:?} must be once in {name}", patch.name);
        }
        let (package, program, test) = patch.test;
        let name = test.split("::").find(|part| part.contains('_')).expect("a test's name");
        let sources = root().join(package).join("tests").join(program);
        let there = fs::read_dir(&sources)
            .expect("the test program's sources")
            .any(|entry| read(&entry.expect("an entry").path()).contains(name));
        assert!(there, "{}: no test of {} is called {name}", patch.name, sources.display());
    }
}

/// For `make soak`.
#[test]
#[ignore = "builds a copy of the workspace"]
fn every_patched_program_fails_its_test() {
    let place = root().join("target/patched");
    let turn = place.join("turn");
    let tree = place.join("tree");
    copy(&tree, patched(&turn));
    let programs = build(&tree, &place.join("build"));
    let run = |patch: &Patch, name: &str| {
        fs::write(&turn, name).expect("the turn's file");
        let (package, program, test) = patch.test;
        let mut command = Command::new("timeout");
        command.args(["-k", "10", LIMIT_S]).arg(&programs[program]).args([test, "--test-threads", "1"]);
        command.current_dir(tree.join(package)).output().expect("the test program must start")
    };
    let told = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut right, mut survived) = (BTreeSet::new(), Vec::new());
    for patch in PATCHES {
        if right.insert(patch.test) {
            let output = run(patch, "nobody's");
            let passes = output.status.success() && !told(&output).contains(" 0 passed");
            assert!(passes, "{:?} must pass while nothing is wrong:\n{}", patch.test, told(&output));
        }
        let output = run(patch, patch.name);
        let seen = !output.status.success();
        println!("{:<70} {}", patch.name, if seen { "killed by" } else { "SURVIVED" });
        println!("    {}::{}", patch.test.1, patch.test.2);
        survived.extend((!seen).then_some(patch.name));
    }
    assert!(survived.is_empty(), "tests that did not see these: {survived:#?}");
}

/// The sources that git knows, with these in the place of some. What is as it was keeps its time, for a quick build.
fn copy(tree: &Path, patched: BTreeMap<&str, String>) {
    let listed =
        Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git must run");
    assert!(
        listed.status.success(),
        "the patches need a checkout: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    for path in String::from_utf8(listed.stdout).expect("paths in UTF-8").split_terminator('\0') {
        let (from, to) = (root().join(path), tree.join(path));
        let Ok(present) = fs::read(&from) else { continue };
        let wanted = patched.get(path).map_or(present, |text| text.clone().into_bytes());
        if fs::read(&to).is_ok_and(|there| there == wanted) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a folder")).expect("the copy's folders");
        fs::copy(&from, &to).expect("the copy's files");
        fs::write(&to, wanted).expect("the copy's files");
    }
}

/// The test programs, by name.
fn build(tree: &Path, target: &Path) -> BTreeMap<String, PathBuf> {
    let wanted: BTreeSet<_> = PATCHES.iter().map(|patch| patch.test.1).collect();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--locked", "--workspace", "--no-run", "--message-format=json"]);
    cargo.args(wanted.iter().flat_map(|program| ["--test", program]));
    let built = cargo.current_dir(tree).env("CARGO_TARGET_DIR", target).output().expect("cargo must run");
    assert!(
        built.status.success(),
        "the patched copy must build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let messages = String::from_utf8(built.stdout).expect("JSON");
    let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = |message: serde_json::Value| {
        let name = message["target"]["name"].as_str()?.to_owned();
        let path = PathBuf::from(message["executable"].as_str()?);
        (message["target"]["kind"][0] == "test").then_some((name, path))
    };
    built.filter_map(program).collect()
}
