//! The legitimate differences between stores, as data: kept beside the suite, checked by each run of it, and made into
//! one table for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use lease_core::Capabilities;
use serde::{Deserialize, Serialize};

use crate::cases;
use crate::harness::Harness;

/// A store's offers, and the cases of the suite that don't apply to it. See [`Harness::description`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The store's name, which its trials begin with.
    pub store: String,
    /// `Capabilities::watch`
    pub watch: bool,
    /// `Capabilities::list`
    pub list: bool,
    /// `Capabilities::history`
    pub history: bool,
    /// `Capabilities::creates_registers`
    pub creates_registers: bool,
    /// `Capabilities::ttl_granularity`
    pub ttl_granularity_ms: u64,
    /// The cases that don't apply, each with the reason.
    pub ignored: BTreeMap<String, String>,
}

impl Description {
    /// Of the store behind a harness.
    pub fn of(harness: &dyn Harness, capabilities: &Capabilities) -> Self {
        let ignored = cases::all().filter_map(|case| {
            case.ignored_because(harness, capabilities).map(|because| (case.id.to_owned(), because))
        });
        Self {
            store: harness.name().to_owned(),
            watch: capabilities.watch,
            list: capabilities.list,
            history: capabilities.history,
            creates_registers: capabilities.creates_registers,
            ttl_granularity_ms: capabilities.ttl_granularity.as_millis() as u64,
            ignored: ignored.collect(),
        }
    }

    /// From JSON.
    ///
    /// # Errors
    /// It is no such JSON.
    pub fn parse(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| format!("not a store's description: {error}"))
    }

    /// As JSON, the way it is kept in a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }

    /// Fails if `kept` isn't what this is, with what to keep instead.
    pub(crate) fn compare(&self, kept: &str) -> Result<(), String> {
        if Self::parse(kept).is_ok_and(|kept| kept == *self) {
            return Ok(());
        }
        Err(format!("the store's description is out of date; what holds is\n{}", self.to_json()))
    }
}

/// The table of what differs, in Markdown.
pub fn table(stores: &[Description]) -> String {
    let total = cases::all().count();
    let mut page = String::new();
    let mut row = |cells: &mut dyn Iterator<Item = String>| {
        let _ = writeln!(page, "| {} |", cells.collect::<Vec<_>>().join(" | "));
    };
    let names = || stores.iter().map(|store| store.store.clone());
    row(&mut std::iter::once(String::new()).chain(names()));
    row(&mut std::iter::repeat_n("---".to_owned(), stores.len() + 1));
    let mut line = |what: &str, cell: &dyn Fn(&Description) -> String| {
        row(&mut std::iter::once(what.to_owned()).chain(stores.iter().map(cell)));
    };
    let yes = |offered: bool| if offered { "yes" } else { "no" }.to_owned();
    line("wakes standbys (`watch`)", &|store| yes(store.watch));
    line("lists registers (`list`)", &|store| yes(store.list));
    line("keeps history, in the write itself (`history`)", &|store| yes(store.history));
    line("candidates create absent registers", &|store| yes(store.creates_registers));
    line("ttls are multiples of", &|store| match store.ttl_granularity_ms {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    });
    line("cases judged", &|store| (total - store.ignored.len()).to_string());
    line("cases that don't apply", &|store| store.ignored.len().to_string());
    for case in cases::all().filter(|case| stores.iter().any(|store| store.ignored.contains_key(case.id))) {
        line(&format!("`{}`", case.id), &|store| {
            store.ignored.get(case.id).map_or_else(|| "judged".to_owned(), |because| format!("– {because}"))
        });
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryHarness;

    fn memory() -> Description {
        let capabilities = Capabilities {
            name: "memory",
            watch: true,
            list: true,
            history: true,
            creates_registers: true,
            ttl_granularity: std::time::Duration::from_millis(1),
        };
        Description::of(&MemoryHarness::keeping(), &capabilities)
    }

    #[test]
    fn a_description_is_compared_with_what_holds() {
        let held = memory();
        assert_eq!(held.compare(&held.to_json()), Ok(()));
        let stale = Description { history: false, ..memory() }.to_json();
        let told = held.compare(&stale).unwrap_err();
        assert!(told.contains(&held.to_json()), "{told}");
        assert!(held.compare("").is_err());
    }

    #[test]
    fn the_table_says_of_each_case_that_someone_ignores_who_and_why() {
        let one = memory();
        let two = Description { store: "two".into(), ignored: BTreeMap::new(), ..memory() };
        let page = table(&[one.clone(), two]);
        for (case, because) in &one.ignored {
            assert!(page.contains(&format!("| `{case}` | – {because} | judged |")), "{page}");
        }
        assert!(page.lines().all(|line| line.matches('|').count() == 4), "{page}");
    }
}
