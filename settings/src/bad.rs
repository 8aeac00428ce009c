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

/// All settings that were found to be bad, at least one. Each has a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSettings(Vec<BadSetting>);

impl BadSettings {
    /// # Errors
    /// There are some.
    pub fn none_of(bad: impl IntoIterator<Item = BadSetting>) -> Result<(), Self> {
        let mut all = Vec::new();
        for one in bad {
            if !all.contains(&one) {
                all.push(one);
            }
        }
        if all.is_empty() { Ok(()) } else { Err(Self(all)) }
    }

    /// Each of them, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &BadSetting> {
        self.0.iter()
    }
}

impl From<BadSetting> for BadSettings {
    fn from(bad: BadSetting) -> Self {
        Self(vec![bad])
    }
}

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.iter().map(BadSetting::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for BadSettings {}

/// Checks that don't need each other's results, so that whoever starts a program is told of all that is wrong at once.
pub trait Together {
    /// What they give.
    type All;

    /// # Errors
    /// Those of all of them.
    fn together(self) -> Result<Self::All, BadSettings>;
}

macro_rules! together {
    ($($T:ident $E:ident $value:ident),+) => {
        impl<$($T, $E: Into<BadSettings>),+> Together for ($(Result<$T, $E>,)+) {
            type All = ($($T,)+);

            fn together(self) -> Result<Self::All, BadSettings> {
                let ($($value,)+) = self;
                let mut bad = Vec::new();
                $(let $value = $value.map_err(|error| bad.extend(error.into().0)).ok();)+
                BadSettings::none_of(bad)?;
                let all = (|| Some(($($value?,)+)))();
                Ok(all.expect("whatever isn't there is bad"))
            }
        }
    };
}

together!(A EA a, B EB b);
together!(A EA a, B EB b, C EC c);
together!(A EA a, B EB b, C EC c, D ED d);
together!(A EA a, B EB b, C EC c, D ED d, E EE e);
together!(A EA a, B EB b, C EC c, D ED d, E EE e, F EF f);

/// The name that is most like this one, if any is like it by at least so much, of 1. One slip of a finger always is.
pub fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>, at_least: f64) -> Option<&'a str> {
    let likeness = |known: &str| match strsim::osa_distance(name, known) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(name, known),
    };
    let close = known.map(|known| (likeness(known), known)).filter(|(near, _)| *near > at_least);
    close.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}

/// The name that was probably meant.
pub(super) fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    closest(name, known, 0.85).map_or_else(String::new, |known| format!("did you mean {known}? "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_bad_is_told_at_once_and_nothing_twice() {
        let bad = |setting: &str| {
            let (setting, why) = (setting.to_owned(), "use another".to_owned());
            Err::<u8, _>(BadSetting { setting, fault: SettingFault::NotSet, why })
        };
        let inner = (bad("a"), Ok::<_, BadSetting>(1), bad("b")).together();
        let outer = (inner, bad("b"), bad("c")).together().unwrap_err();
        let told: Vec<_> = outer.iter().map(|one| one.setting.as_str()).collect();
        assert_eq!(told, ["a", "b", "c"]);
        assert_eq!((Ok::<_, BadSetting>(1), Ok::<_, BadSettings>("x")).together(), Ok((1, "x")));
    }
}
