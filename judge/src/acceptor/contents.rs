//! The content of each tag: no two writes have the same one, so whoever shows a tag shows what was written with it.

use std::collections::{BTreeSet, HashMap, HashSet};

use lease_core::{Record, Tag};
use serde_json::Value;

use super::Explained;
use crate::facts::Write;
use crate::history::View;

pub(super) struct Contents<'a> {
    written: HashMap<Tag, &'a Record>,
    /// The tags of writes that made a register, under the lineage that they saw.
    created: HashSet<Tag>,
}

impl<'a> Contents<'a> {
    pub(super) fn of(writes: &'a [Write<'a>]) -> Self {
        let puts = || writes.iter().map(|write| write.put);
        let created =
            puts().filter(|put| put.expected.record.is_none() && put.expected.lineage == put.record.lineage);
        Self {
            created: created.map(|put| put.record.tag).collect(),
            written: puts().map(|put| (put.record.tag, &put.record)).collect(),
        }
    }

    /// Takes note of a record that nobody in the history wrote; later ones with its tag must be the same.
    pub(super) fn shows(&mut self, view: &'a View) -> Explained {
        let Some(record) = &view.record else { return Ok(()) };
        let written = *self.written.entry(record.tag).or_insert(record);
        if written == &**record {
            return Ok(());
        }
        // A store that names the lineage of a new register itself may put it into the record that makes it
        // (`docs/decisions/0031-k8s-lineage-and-creation.md`).
        let stamped = Record { lineage: view.lineage.clone(), ..written.clone() };
        if self.created.contains(&record.tag) && stamped == **record {
            return Ok(());
        }
        Err(format!("the record with this tag is another one: {}", differences(written, record)))
    }
}

/// The fields in which two records differ.
fn differences(written: &Record, shown: &Record) -> String {
    let fields = |record| serde_json::to_value(record).expect("plain data");
    let (written, shown) = (fields(written), fields(shown));
    let names = [&written, &shown].into_iter().filter_map(Value::as_object).flat_map(|fields| fields.keys());
    let differ =
        names.collect::<BTreeSet<_>>().into_iter().filter(|name| written.get(name) != shown.get(name));
    let told = differ.map(|name| {
        let of = |record: &Value| record.get(name).map_or("none".to_owned(), ToString::to_string);
        format!("{name} {}, not {}", of(&written), of(&shown))
    });
    told.collect::<Vec<_>>().join("; ")
}
