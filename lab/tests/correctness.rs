//! `docs/correctness.md` names what is in the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use lease_conformance::{find, mutants};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One invariant's section: its bullets by their first word.
struct Section {
    id: String,
    bullets: BTreeMap<String, String>,
}

impl Section {
    fn bullet(&self, word: &str) -> &str {
        self.bullets.get(word).unwrap_or_else(|| panic!("{} has no line `- {word}: …`", self.id))
    }

    /// The texts in backquotes.
    fn names(&self, word: &str) -> Vec<&str> {
        self.bullet(word).split('`').skip(1).step_by(2).collect()
    }
}

fn sections(page: &str) -> Vec<Section> {
    let invariants = page.split("\n### ").skip(1).filter(|section| section.starts_with("L-"));
    let section = |text: &str| {
        let body = text.split("\n## ").next().unwrap_or_default();
        let bullets = body.split("\n- ").skip(1).filter_map(|bullet| {
            let (word, rest) = bullet.split_once(": ")?;
            Some((word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        });
        Section { id: text.split(' ').next().unwrap_or_default().to_owned(), bullets: bullets.collect() }
    };
    invariants.map(section).collect()
}

#[test]
fn every_invariant_has_a_section_and_names_rules_code_and_models_that_exist() {
    let (page, protocol) = (read("docs/correctness.md"), read("docs/protocol.md"));
    let models: String =
        ["model", "simulation"].map(|name| read(&format!("lease-core/tests/{name}.rs"))).concat();
    let sections = sections(&page);
    let ids: Vec<_> = sections.iter().map(|section| section.id.as_str()).collect();
    assert_eq!(ids, lease_judge::invariants::ALL.map(|invariant| invariant.rule));
    for section in &sections {
        for rule in section.bullet("Rules").split(", ") {
            assert!(protocol.contains(&format!("\n### {rule} ")), "{}: no rule {rule}", section.id);
        }
        let checker = read(&format!("judge/src/invariants/{}", section.names("Checker")[0]));
        let rule = section.id.as_str();
        assert!(checker.contains(rule), "the checker of {rule} does not name it");
        assert!(section.bullet("Code").contains("](../"), "{rule} links to no code");
        let names = section.names("Model");
        assert!(!names.is_empty() || section.bullet("Model").starts_with("none: "), "{rule} has no model");
        for name in names {
            assert!(models.contains(&format!("fn {name}(")), "{rule}: no model or simulation {name}");
        }
    }
}

#[test]
fn every_listed_mutant_is_killed_by_a_trial_that_is_listed_with_it() {
    let page = read("docs/correctness.md");
    let known: BTreeMap<_, _> = mutants::all().map(|mutant| (mutant.to_string(), mutant.killers)).collect();
    for section in sections(&page) {
        let trials: BTreeSet<_> = section.names("Trials").into_iter().collect();
        for id in &trials {
            assert!(find(id).is_some(), "{}: no trial {id}", section.id);
        }
        for name in section.names("Mutants") {
            let killers = known.get(name).unwrap_or_else(|| panic!("{}: no mutant `{name}`", section.id));
            let killed_here = killers.iter().any(|id| trials.contains(id));
            assert!(killed_here, "{}: list one of {killers:?}, which kill `{name}`", section.id);
        }
    }
}
