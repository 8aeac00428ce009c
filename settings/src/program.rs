//! Settings of the program itself, whatever it runs.

use lease_core::WorkloadId;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::{Block, Section, Setting, ValueKind};

/// The workload's name.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// The instance's name, for people.
    pub instance_id: Option<String>,
}

impl Block for Workload {
    const SECTION: Section = Section {
        name: "workload",
        about: "this instance",
        settings: &[Setting::new(
            "instanceId",
            "LEASEHOLD_WORKLOAD_ID",
            ValueKind::Checked {
                check: |text| WorkloadId::new(text).is_ok(),
                allowed: "use 1 to 253 characters without control or hidden characters, for example the pod's name",
            },
            "the instance's name in records and history, for people",
        )
        .unset("POD_NAME, HOSTNAME or the host's name")
        .flag("workload-id")],
    };
}

/// The log's filter and format.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// Which messages.
    pub filter: Option<String>,
    /// `human` or `json`.
    pub format: String,
}

impl Log {
    /// Whether tracing understands this filter.
    pub fn is_filter(text: &str) -> bool {
        !text.is_empty() && !text.chars().any(char::is_control) && EnvFilter::try_new(text).is_ok()
    }
}

impl Block for Log {
    const SECTION: Section = Section {
        name: "log",
        about: "the log on standard error",
        settings: &[
            Setting::new(
                "filter",
                "LEASEHOLD_LOG",
                ValueKind::Checked {
                    check: Log::is_filter,
                    allowed: "use error, warn, info, debug, trace or target=level pairs, for example \
                              info,lease_core=debug",
                },
                "which messages are logged",
            )
            .unset("RUST_LOG, else info, and warn for operators' commands")
            .flag("log"),
            Setting::new(
                "format",
                "LEASEHOLD_LOG_FORMAT",
                ValueKind::OneOf(&["human", "json"]),
                "how messages are written",
            )
            .default("human")
            .flag("log-format"),
        ],
    };
}
