//! How leases are shown: the arguments that `status` and `list` share.

use clap::{ColorChoice, ValueEnum};
use lease_core::{BackendError, LeaseName, Observation};
use serde_json::json;

use super::state;

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// A table, one with more columns, or JSON with one line a lease
    #[arg(short, long, value_enum, value_name = "FORM")]
    output: Option<Form>,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Go on and show each change, until Ctrl-C
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Colour; auto is a terminal without NO_COLOR
    #[arg(long, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    color: ColorChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
enum Form {
    Table,
    Wide,
    Json,
}

impl Show {
    /// Was nothing said?
    pub(super) fn is_plain(&self) -> bool {
        self.output.is_none() && !self.json && !self.watch
    }

    pub(super) fn is_json(&self) -> bool {
        self.json || self.output == Some(Form::Json)
    }

    pub(super) fn is_wide(&self) -> bool {
        self.output == Some(Form::Wide)
    }

    pub(super) fn in_colour(&self) -> bool {
        match self.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => console::Term::stdout().features().colors_supported(),
        }
    }
}

/// One line for machines.
pub(super) fn as_json(name: &LeaseName, seen: &Result<Observation, BackendError>) -> serde_json::Value {
    let observation = match seen {
        Ok(observation) => observation,
        Err(error) => return json!({ "lease": name, "state": "unreadable", "error": format!("{error:#}") }),
    };
    let state = observation.record.as_ref().map_or("absent", state);
    json!({ "lease": name, "state": state, "store_lineage": observation.lineage, "record": observation.record })
}
