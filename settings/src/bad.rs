//! The one message about a setting that can't be used.

use std::fmt;

/// A setting that can't be used. One message: the setting as the user wrote it, its value, the allowed values, the fix.
/// The program ends with exit code 2 before it has started anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    /// The setting as the user wrote it: a variable, a key and its file, a flag.
    pub setting: String,
    /// The fault.
    pub fault: SettingFault,
    /// The allowed values, and the fix.
    pub why: String,
}

/// The fault of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingFault {
    /// This value, redacted, can't be used.
    NotAllowed(String),
    /// It's needed, and nobody has set it.
    NotSet,
    /// There is no such setting.
    Unknown,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, fault, why } = self;
        match fault {
            SettingFault::NotAllowed(value) => write!(f, "{setting} = {value} is not allowed: {why}"),
            SettingFault::NotSet => write!(f, "{setting} is not set: {why}"),
            SettingFault::Unknown => write!(f, "{setting} is unknown: {why}"),
        }
    }
}

impl std::error::Error for BadSetting {}

/// The name that was probably meant.
pub(super) fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let close =
        known.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(near, _)| *near > 0.85);
    let best = close.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.map_or_else(String::new, |(_, known)| format!("did you mean {known}? "))
}
