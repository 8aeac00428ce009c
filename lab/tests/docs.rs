//! The documentation agrees with the tree: links, rule ids, names and quoted code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder whose name has one of these endings. Build output and hidden folders are left out.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    files(root(), &[".md"])
}

/// Everything that people write in this repository.
fn texts() -> Vec<PathBuf> {
    files(
        root(),
        &[".md", ".rs", ".sql", ".sh", ".py", ".proto", ".toml", ".yaml", ".tpl", ".txt", "Makefile"],
    )
}

/// The words of a text that are identifiers.
fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

// === links ===

/// A link of a page: its text and its target.
fn links(page: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    for (at, _) in page.match_indices("](") {
        let Some((target, _)) = page[at + 2..].split_once(')') else { continue };
        let text = page[..at].rsplit('[').next().unwrap_or_default();
        links.push((text.to_owned(), target.to_owned()));
    }
    links
}

/// The page without its code blocks, in which brackets and `#` mean other things.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// The anchors that GitHub gives a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(page).lines().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        let kept = heading.to_lowercase().replace(' ', "-");
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_');
        let anchor: String = kept.collect();
        let again = (1..).map(|count| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    let mut followed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (_, link) in links(&prose(&text)) {
            if link.starts_with("http") {
                continue;
            }
            followed += 1;
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, at)| (file, Some(at)));
            let target = if file.is_empty() { page.clone() } else { page.with_file_name("").join(file) };
            assert!(target.exists(), "{} leads to {link}, which is not there", page.display());
            if let Some(anchor) = anchor {
                let there = anchors(&std::fs::read_to_string(&target).expect("a page"));
                assert!(there.contains(anchor), "{} leads to {link}: no such heading", page.display());
            }
        }
    }
    assert!(followed > 100, "only {followed} links were found");
}

/// A comment or a message that names a page names one that exists.
#[test]
fn every_page_that_a_source_names_exists() {
    let mut named = 0;
    for source in texts() {
        let text = std::fs::read_to_string(&source).expect("a text");
        for (at, _) in text.match_indices("docs/") {
            let path = text[at..].split(|c: char| !(c.is_ascii_alphanumeric() || "/-_.".contains(c))).next();
            let Some((stem, _)) = path.unwrap_or_default().split_once(".md") else { continue };
            named += 1;
            let page = root().join(format!("{stem}.md"));
            assert!(page.exists(), "{} names {stem}.md, which is not there", source.display());
        }
    }
    assert!(named > 20, "only {named} were found");
}

#[test]
fn a_link_from_a_name_in_code_leads_to_a_file_that_defines_it() {
    const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
    let mut followed = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (name, link) in links(&prose(&text)) {
            let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
            let name = name.rsplit("::").next().unwrap_or(name);
            if !link.ends_with(".rs") || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            followed += 1;
            let source = std::fs::read_to_string(page.with_file_name("").join(&link)).expect("a source");
            let words: Vec<_> = source.split_whitespace().collect();
            let defines = words.windows(2).any(|pair| {
                KINDS.contains(&pair[0]) && identifiers(pair[1]).next().is_some_and(|defined| defined == name)
            });
            assert!(defines, "{} says that {link} has `{name}`", page.display());
        }
    }
    assert!(followed > 20, "only {followed} were found");
}

// === rules ===

const BUILT: &str = "docs/protocol.md";
const NOT_BUILT: &str = "docs/not-built.md";

/// A rule id: one of the protocol's letters, a hyphen, a number, and perhaps a letter (T-2, PG-1, S-1a).
fn rule_ids(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    words.filter(|word| {
        let Some((family, number)) = word.split_once('-') else { return false };
        let digits = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let known = family == "PG" || (family.len() == 1 && "RETUHFMSPGLQKJ".contains(family));
        known
            && number.len() - digits.len() <= 1
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_ascii_digit())
    })
}

/// The rules that have a heading of their own on a page.
fn rules_of(page: &str) -> BTreeSet<String> {
    let headings = read(page);
    let headings = headings.lines().filter_map(|line| line.strip_prefix("### "));
    headings
        .filter_map(|heading| rule_ids(heading.split(' ').next().unwrap_or_default()).next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_rule_that_anything_cites_has_one_heading() {
    let (built, not_built) = (rules_of(BUILT), rules_of(NOT_BUILT));
    assert!(built.len() > 35 && not_built.len() > 8, "{built:?} {not_built:?}");
    let both: Vec<_> = built.intersection(&not_built).collect();
    assert!(both.is_empty(), "built and not built: {both:?}");
    for source in texts() {
        let text = std::fs::read_to_string(&source).expect("a text");
        for id in rule_ids(&text) {
            assert!(
                built.contains(id) || not_built.contains(id),
                "{} cites {id}, which has no heading in {BUILT} or {NOT_BUILT}",
                source.display()
            );
        }
    }
}

#[test]
fn every_rule_is_cited_by_the_code_that_follows_it() {
    let mut cited = BTreeMap::<String, usize>::new();
    let this = root().join("lab/tests/docs.rs");
    for source in files(root(), &[".rs", ".sql"]).into_iter().filter(|source| *source != this) {
        let text = std::fs::read_to_string(&source).expect("a source");
        rule_ids(&text).for_each(|id| *cited.entry(id.to_owned()).or_default() += 1);
    }
    let forgotten: Vec<_> = rules_of(BUILT).into_iter().filter(|rule| !cited.contains_key(rule)).collect();
    assert!(
        forgotten.is_empty(),
        "no code and no test cites {forgotten:?}: cite them, or move them to {NOT_BUILT}"
    );
    let early: Vec<_> = rules_of(NOT_BUILT).into_iter().filter(|rule| cited.contains_key(rule)).collect();
    assert!(early.is_empty(), "code cites {early:?}, which {NOT_BUILT} says is not built");
}

/// A section's number changes with the page; an id or a heading doesn't.
#[test]
fn nothing_cites_a_section_by_its_number() {
    let sign = char::from_u32(0xA7).expect("the section sign");
    for source in texts() {
        let text = std::fs::read_to_string(&source).expect("a text");
        assert!(!text.contains(sign), "{} cites a section by number: cite the rule", source.display());
    }
}

// === names ===

/// A name that says a behaviour: four words or more.
fn is_sentence(word: &str) -> bool {
    word.matches('_').count() >= 3
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut names = BTreeSet::new();
    for file in files(root(), &[".rs"]) {
        let text = std::fs::read_to_string(file).expect("a source");
        names.extend(identifiers(&text).filter(|word| is_sentence(word)).map(str::to_owned));
    }
    let mut named = 0;
    for page in files(&root().join("docs"), &[".md"]) {
        let text = std::fs::read_to_string(&page).expect("a page");
        let words = text.split('`').skip(1).step_by(2).map(|word| word.rsplit("::").next().unwrap_or(word));
        for word in words.filter(|word| is_sentence(word)) {
            named += 1;
            // Tables, and a library's metrics: other tests look for them.
            let elsewhere = ["coordination_", "process_"].iter().any(|prefix| word.starts_with(prefix));
            assert!(elsewhere || names.contains(word), "{} names `{word}`, which is nowhere", page.display());
        }
    }
    assert!(named > 10, "only {named} names were found");
}

/// Everything below a folder, folders with a `/` at their end. Build output and hidden folders are left out.
fn tree(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().expect("a type").is_file() {
            found.push(path.display().to_string());
        } else if name != "target" && !name.starts_with('.') {
            found.push(format!("{}/", path.display()));
            tree(&path, found);
        }
    }
}

/// A path in code, whole or its end: `src/deadline.rs`, `backend-sqlite/tests/`. Placeholders are in capitals, and the
/// changelog names what was.
#[test]
fn every_path_that_a_page_names_exists() {
    const ENDINGS: [&str; 9] = [".rs", ".sql", ".sh", ".toml", ".yaml", ".tpl", ".json", ".md", "/"];
    let mut all = Vec::new();
    tree(root(), &mut all);
    let mut named = 0;
    for page in pages().into_iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for path in prose(&text).split('`').skip(1).step_by(2) {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "/-_.".contains(c);
            let relative = path.contains('/') && !path.starts_with(['/', '.']);
            if !relative || !path.chars().all(plain) || !ENDINGS.iter().any(|ending| path.ends_with(ending)) {
                continue;
            }
            named += 1;
            let end = format!("/{path}");
            assert!(all.iter().any(|there| there.ends_with(&end)), "{} names {path}", page.display());
        }
    }
    assert!(named > 60, "only {named} were found");
}

/// The cells of a page's table rows, headings and rulers left out.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines: Vec<_> = page.lines().collect();
    let ruled = |at: usize| lines.get(at + 1).is_some_and(|line| line.starts_with("| ---"));
    let rows = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| line.starts_with("| ") && !line.starts_with("| ---") && !ruled(*at));
    rows.map(|(_, line)| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

#[test]
fn every_term_of_the_glossary_is_found_in_one_file() {
    let all: Vec<_> = files(root(), &[""]).iter().map(|path| format!("/{}", path.display())).collect();
    let terms = rows(&read("docs/glossary.md"));
    assert!(terms.len() > 60, "{} terms were read", terms.len());
    let mut before = String::new();
    for term in terms {
        let [name, _, _, file] = &term[..] else { panic!("four cells: {term:?}") };
        let end = format!("/{}", file.trim_matches('`'));
        let found: Vec<_> = all.iter().filter(|path| path.ends_with(&end)).collect();
        assert_eq!(found.len(), 1, "{name}: {file} is to name one file, and names {found:?}");
        let sorted = name.to_lowercase().replace('ρ', "rho");
        assert!(before <= sorted, "{name} stands after {before}: sort the terms");
        before = sorted;
    }
}

#[test]
fn each_decision_is_listed_with_its_title() {
    let listed: BTreeMap<_, _> = rows(&read("docs/decisions/README.md"))
        .into_iter()
        .map(|row| (links(&row[0])[0].1.clone(), row[1].clone()))
        .collect();
    let mut titles = BTreeMap::new();
    for page in files(&root().join("docs/decisions"), &[".md"]) {
        let name = page.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&page).expect("a page");
        let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a title");
        if let Some((number, title)) = title.split_once(' ').filter(|_| name != "README.md") {
            assert!(name.starts_with(number), "{name} begins with number {number}");
            let replaced = text.split("**Replaced by [").nth(1).and_then(|rest| rest.split(']').next());
            let replaced = replaced.map(|by| format!(" (replaced by {by})")).unwrap_or_default();
            titles.insert(name, title.to_owned() + &replaced);
        }
    }
    assert!(titles.len() > 25, "{titles:?}");
    assert_eq!(listed, titles);
}

#[test]
fn each_line_of_the_readmes_comparison_has_its_sources() {
    let (readme, sources) = (read("README.md"), read("docs/comparison.md"));
    let table = readme.split("## How it compares").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows: Vec<_> = rows(table.expect("a comparison")).into_iter().map(|row| row[0].clone()).collect();
    let sections: Vec<_> = sources.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(!rows.is_empty());
    assert_eq!(rows, sections);
}

// === code ===

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
    let page = read("docs/writing-a-backend.md");
    let blocks: Vec<_> =
        page.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 6, "{} pieces of code", blocks.len());
    for block in blocks {
        let (first, code) = block.split_once('\n').expect("a path, then code");
        let path = first.strip_prefix("// ").expect("the first line names the source");
        assert!(quotable(&read(path)).contains(quotable(code).trim()), "this is not in {path}:\n{code}");
    }
}
