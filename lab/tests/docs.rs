//! What the documentation says about the sources is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Every file below a folder whose name ends so; what was built is no source.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(files(&path, ending));
        } else if kind.is_file() && path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// The identifiers of the sources that are long enough to be a test's name.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(root(), ".rs") {
        let text = std::fs::read_to_string(file).expect("a source");
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        names.extend(words.filter(|word| is_sentence(word)).map(str::to_owned));
    }
    names
}

/// A name that says a behaviour: four words or more.
fn is_sentence(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_test_that_a_page_names_exists() {
    let names = names();
    let mut named = 0;
    for page in files(&root().join("docs"), ".md") {
        let text = std::fs::read_to_string(&page).expect("a page");
        let words = text.split('`').skip(1).step_by(2).map(|word| word.rsplit("::").next().unwrap_or(word));
        for word in words.filter(|word| is_sentence(word)) {
            named += 1;
            let table = word.starts_with("coordination_");
            assert!(table || names.contains(word), "{} names `{word}`, which is nowhere", page.display());
        }
    }
    assert!(named > 10, "only {named} names were found");
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut links = 0;
    for page in files(root(), ".md") {
        let text = std::fs::read_to_string(&page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            links += 1;
            let path = page.parent().expect("a folder").join(link.split('#').next().unwrap_or(link));
            assert!(path.exists(), "{} leads to {link}, which is not there", page.display());
        }
    }
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn each_line_of_the_readmes_comparison_has_its_sources() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect(name);
    let (readme, sources) = (read("README.md"), read("docs/comparison.md"));
    let table = readme.split("## How it compares").nth(1).expect("a comparison");
    let rows =
        table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.skip(2).map(|row| row.split('|').nth(1).expect("a cell").trim()).collect();
    let sections: Vec<_> = sources.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(!rows.is_empty());
    assert_eq!(rows, sections);
}

/// A source's lines as a page quotes them: without indentation and without the marks of a documentation comment.
fn quotable(text: &str) -> String {
    let bare = |line: &str| {
        let line = line.trim();
        line.strip_prefix("//!").or(line.strip_prefix("///")).unwrap_or(line).trim().to_owned()
    };
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_code_on_the_page_for_backends_authors_is_the_code_that_is_compiled() {
    let page = std::fs::read_to_string(root().join("docs/writing-a-backend.md")).expect("the page");
    let blocks: Vec<_> =
        page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 6, "{} pieces of code", blocks.len());
    for block in blocks {
        let (first, code) = block.split_once('\n').expect("a path, then code");
        let path = first.strip_prefix("// ").expect("the first line names the source");
        let source = std::fs::read_to_string(root().join(path)).expect(path);
        assert!(quotable(&source).contains(quotable(code).trim()), "this is not in {path}:\n{code}");
    }
}
