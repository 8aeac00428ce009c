//! The pages' commands.

use std::collections::VecDeque;

const PAGE: &str = include_str!("../../../docs/operating.md");
const KUBERNETES: &str = include_str!("../../../docs/kubernetes.md");
const BY_HAND: &str = include_str!("../../../docs/run-by-hand.md");

/// Everything that reads the page's sections.
const READERS: [&str; 5] = [
    include_str!("lag.rs"),
    include_str!("leaders.rs"),
    include_str!("planning.rs"),
    include_str!("restores.rs"),
    include_str!("sidecars.rs"),
];

/// The commands below one heading, which are to be run in their order.
pub(crate) struct Section {
    title: &'static str,
    lines: VecDeque<&'static str>,
}

fn sections(page: &'static str) -> impl Iterator<Item = Section> {
    page.split("\n##").skip(1).map(|part| {
        let (title, body) = part.split_once('\n').unwrap_or((part, ""));
        let blocks = body.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
        let lines = blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ "));
        // A release is what these change: `leasehold-lab e2e` runs them on one.
        let lines = lines.filter(|line| !line.starts_with("helm "));
        Section { title: title.trim_start_matches('#').trim(), lines: lines.collect() }
    })
}

impl Section {
    pub(crate) fn of(title: &str) -> Self {
        Self::on(PAGE, title)
    }

    /// Of docs/kubernetes.md.
    pub(crate) fn on_kubernetes(title: &str) -> Self {
        Self::on(KUBERNETES, title)
    }

    /// Of docs/run-by-hand.md.
    pub(crate) fn by_hand(title: &str) -> Self {
        Self::on(BY_HAND, title)
    }

    fn on(page: &'static str, title: &str) -> Self {
        sections(page).find(|section| section.title == title).unwrap_or_else(|| panic!("no section {title}"))
    }

    /// The next command, which begins so.
    pub(crate) fn next(&mut self, begins: &str) -> &'static str {
        let line = self.lines.pop_front().unwrap_or_else(|| panic!("{}: nothing is left", self.title));
        assert!(line.starts_with(begins), "{}: not {begins}: {line}", self.title);
        line
    }

    /// The command that begins so, wherever it stands.
    pub(crate) fn find(&self, begins: &str) -> &'static str {
        let mut lines = self.lines.iter().filter(|line| line.starts_with(begins));
        lines.next().unwrap_or_else(|| panic!("{}: no {begins}", self.title))
    }

    pub(crate) fn end(self) {
        assert!(self.lines.is_empty(), "{}: {:?} was not run", self.title, self.lines);
    }
}

fn titles_with_commands(page: &'static str) -> Vec<&'static str> {
    sections(page).filter(|section| !section.lines.is_empty()).map(|section| section.title).collect()
}

#[test]
fn every_section_of_a_run_by_hand_is_played() {
    let titles = titles_with_commands(BY_HAND);
    assert_eq!(titles.len(), 5, "{titles:?}");
    for title in titles {
        assert!(
            include_str!("by_hand.rs").contains(&format!("by_hand(\"{title}\")")),
            "nobody plays {title:?}"
        );
    }
}

#[test]
fn every_section_with_commands_is_played() {
    let titles = titles_with_commands(PAGE);
    assert!(titles.len() >= 11, "the page was read: {titles:?}");
    for title in titles {
        let opened = format!("Section::of(\"{title}\")");
        assert!(READERS.iter().any(|reader| reader.contains(&opened)), "nobody plays {title:?}");
    }
}
