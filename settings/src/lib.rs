//! Settings: one model for the file, the environment and the flags.
//!
//! A later layer wins: defaults, then the file (`--config` or `LEASEHOLD_CONFIG`, TOML), then the environment, then
//! flags. Every layer is checked on its own, so a malformed value is refused even where a later one would win.
//!
//! **To add settings** (a role, a mode): write a struct that derives `Deserialize` with
//! `#[serde(rename_all = "camelCase")]`, implement [`Block`] for it, name its `SECTION` in the role or return it from the
//! mode, and read it with [`Settings::block`].
//! Environment names are `SPENDGUARD_LEADER_…` for everything about the election and `LEASEHOLD_<SECTION>_<KEY>`
//! for the rest; `--help-all`, `leasehold config` and the refusal of nonsense need nothing more.

mod app;
mod bad;
mod failure;
mod http_url;
mod layers;
mod leader_election;
mod model;
mod modes;
mod program;
mod secret;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use figment::Figment;
use figment::value::{Dict, Value};
use serde::{Deserialize, Serialize};

pub use app::App;
pub use bad::{BadSetting, BadSettings, SettingFault, Together, closest};
pub use failure::Failure;
pub use http_url::http_url;
pub use layers::Layer;
pub use leader_election::LeaderElection;
pub use model::{Block, FromFile, Section, Setting, ValueKind, parse_millis};
pub use modes::{DISABLED, LeaseStore, Mode, Modes};
pub use program::{Log, Workload};
pub use secret::{Secret, masked, redacted};

use layers::{LayerValues, as_written};

/// A time in milliseconds, as settings hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0)
    }
}

/// All that can be set in one program: its sections.
#[derive(Clone, Debug)]
pub struct Model {
    sections: Vec<Section>,
}

/// Variables that we read, or set for children, but that are no settings of the model.
const OTHER_VARIABLES: [&str; 4] =
    ["LEASEHOLD_CONFIG", "LEASEHOLD_LEASE", "LEASEHOLD_EPOCH", "LEASEHOLD_GRANT"];

/// Prefixes of the variables of this project's other tools.
const OF_OTHER_TOOLS: [&str; 6] = [
    "LEASEHOLD_TEST",
    "LEASEHOLD_LAB",
    "LEASEHOLD_DEMO",
    "LEASEHOLD_BENCH",
    "LEASEHOLD_SEED",
    "LEASEHOLD_CACHE",
];

impl Model {
    /// A model of these sections.
    ///
    /// # Panics
    /// If two settings share a key, a variable or a flag: a mistake of the program's author, found at its first start.
    pub fn new(sections: Vec<Section>) -> Self {
        let this = Self { sections };
        let mut names = std::collections::BTreeSet::new();
        for (section, setting) in this.settings() {
            let from = setting.from_file;
            let keys = [Some(setting.key), from.map(|from| from.key)].into_iter().flatten();
            let envs = [Some(setting.env), from.map(|from| from.env)].into_iter().flatten();
            let flags = [setting.flag, from.map(|from| from.flag)].into_iter().flatten();
            let all = keys.map(|key| format!("{}.{key}", section.name)).chain(envs.map(str::to_owned));
            for name in all.chain(flags.map(|flag| format!("--{flag}"))) {
                assert!(names.insert(name.clone()), "two settings are called {name}");
            }
        }
        this
    }

    /// Every setting with its section, in the order in which they are shown.
    pub fn settings(&self) -> impl Iterator<Item = (&Section, &Setting)> {
        self.sections
            .iter()
            .flat_map(|section| section.settings.iter().map(move |setting| (section, setting)))
    }

    fn find(&self, key: &str) -> Option<(&Section, &Setting)> {
        self.settings().find(|(section, setting)| key == format!("{}.{}", section.name, setting.key))
    }

    fn knows_key(&self, key: &str) -> bool {
        self.settings().any(|(section, setting)| {
            key.strip_prefix(section.name).and_then(|rest| rest.strip_prefix('.')).is_some_and(|key| {
                key == setting.key || setting.from_file.is_some_and(|from| from.key == key)
            })
        })
    }

    fn knows_table(&self, name: &str) -> bool {
        self.sections.iter().any(|section| {
            section.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn keys_in(&self, table: &str) -> String {
        let mut keys: Vec<String> = Vec::new();
        let mut add = |full: String| {
            let rest = if table.is_empty() {
                Some(full.as_str())
            } else {
                full.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'))
            };
            if let Some(head) = rest.and_then(|rest| rest.split('.').next())
                && !keys.iter().any(|key| key == head)
            {
                keys.push(head.to_owned());
            }
        };
        for (section, setting) in self.settings() {
            add(format!("{}.{}", section.name, setting.key));
            if let Some(from) = setting.from_file {
                add(format!("{}.{}", section.name, from.key));
            }
        }
        keys.join(", ")
    }

    fn all_variables(&self) -> impl Iterator<Item = &'static str> {
        self.settings()
            .flat_map(|(_, setting)| [Some(setting.env), setting.from_file.map(|from| from.env)])
            .flatten()
            .chain(OTHER_VARIABLES)
    }

    fn knows_variable(&self, name: &str) -> bool {
        self.all_variables().any(|known| known == name)
    }

    /// Would a variable of this name be meant for us? What Kubernetes adds for a Service called `leasehold` isn't.
    fn is_ours(&self, name: &str) -> bool {
        let prefixed = name.starts_with("LEASEHOLD_") || name.starts_with("SPENDGUARD_LEADER_");
        let port = name.split_once("_PORT").is_some_and(|(_, rest)| {
            rest.is_empty() || (rest.starts_with('_') && (rest.contains("_TCP") || rest.contains("_UDP")))
        });
        let of_a_service = name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || port;
        prefixed && !of_a_service && !OF_OTHER_TOOLS.iter().any(|tool| name.starts_with(tool))
    }
}

/// The sources of a program's settings.
#[derive(Default)]
pub struct Sources {
    /// The file that `--config` names.
    pub config: Option<PathBuf>,
    /// Flags by name without dashes, with their text.
    pub flags: BTreeMap<String, String>,
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
}

/// The effective settings, and where each comes from.
pub struct Settings {
    model: Model,
    figment: Figment,
    file: Option<PathBuf>,
    read_from: BTreeMap<(Layer, String), PathBuf>,
}

/// Without the values.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("file", &self.file).finish_non_exhaustive()
    }
}

/// One line of `leasehold config`.
#[derive(Clone, Debug, Serialize)]
pub struct Effective {
    /// The dotted key.
    pub key: String,
    /// Its section's subject.
    #[serde(skip)]
    pub about: &'static str,
    /// The value, redacted; none if unset.
    pub value: Option<serde_json::Value>,
    /// The effect of leaving it unset.
    pub unset: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// The long flag.
    pub flag: Option<&'static str>,
    /// The kind of value: `text`, `integer`, `millis`, …
    pub kind: &'static str,
    /// Whether its value may be shown.
    pub secret: bool,
    /// Its source: `default`, `file`, `environment` or `flag`.
    pub layer: &'static str,
    /// The source in full: the file and key, the variable, the flag.
    pub origin: String,
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// Every setting, of whatever source, that can't be used.
    pub fn load(model: Model, sources: &Sources) -> Result<Self, BadSettings> {
        let variable = sources.environment.get(&OsString::from("LEASEHOLD_CONFIG"));
        let file = match (&sources.config, variable) {
            (Some(path), _) => Some((path.clone(), "--config")),
            (None, Some(path)) => Some((PathBuf::from(path), "LEASEHOLD_CONFIG")),
            (None, None) => None,
        };
        let mut layers = vec![LayerValues::defaults(&model)];
        if let Some((path, how_named)) = &file {
            layers.push(LayerValues::from_file(&model, path, how_named));
        }
        layers.push(LayerValues::from_environment(&model, &sources.environment));
        layers.push(LayerValues::from_flags(&model, &sources.flags));
        BadSettings::none_of(layers.iter_mut().flat_map(|layer| layer.bad.drain(..)))?;
        let mut figment = Figment::new();
        let mut read_from = BTreeMap::new();
        for layer in layers {
            read_from
                .extend(layer.read_from.iter().map(|(key, path)| ((layer.layer, key.clone()), path.clone())));
            figment = figment.merge(layer);
        }
        Ok(Self { model, figment, file: file.map(|(path, _)| path), read_from })
    }

    /// A section's settings. Every value was checked when the settings were loaded.
    pub fn block<B: Block>(&self) -> Result<B, BadSetting> {
        let value = self.figment.find_value(B::SECTION.name).unwrap_or_else(|_| Value::from(Dict::new()));
        // Only where a section's type is narrower than what it says is allowed. The error may quote a secret.
        value.deserialize::<B>().map_err(|error| BadSetting {
            setting: format!("{}.{}", B::SECTION.name, error.path.join(".")),
            fault: SettingFault::NotAllowed("(its value)".to_owned()),
            why: "this program can't use it; use a smaller number or another text".to_owned(),
        })
    }

    /// A value that this section can't do without.
    pub fn required<B: Block, T>(&self, key: &str, value: Option<T>) -> Result<T, BadSetting> {
        value.ok_or_else(|| {
            let full = format!("{}.{key}", B::SECTION.name);
            let ways = self.model.find(&full).map_or_else(String::new, |(section, setting)| {
                let flag = setting.flag.map(|flag| format!(", --{flag}")).unwrap_or_default();
                let from = setting.from_file.map(|from| {
                    let FromFile { key, env, flag } = from;
                    format!(", or name a file that holds it by {env}, --{flag} or {}.{key}", section.name)
                });
                format!(
                    "it is {}; set {}{flag} or {full} in the settings file{}",
                    setting.help,
                    setting.env,
                    from.unwrap_or_default()
                )
            });
            BadSetting { setting: full, fault: SettingFault::NotSet, why: ways }
        })
    }

    /// A text that this section can't do without, as a `T`.
    ///
    /// # Errors
    /// It isn't set, or is no `T`.
    pub fn parsed<B: Block, T>(&self, key: &str, text: Option<&str>) -> Result<T, BadSetting>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let text = self.required::<B, _>(key, text)?;
        text.parse().map_err(|why: T::Err| self.refuse::<B>(key, why.to_string()))
    }

    /// Refuses a value that is well formed and still can't be used: names it as the user wrote it.
    pub fn refuse<B: Block>(&self, key: &str, why: impl Into<String>) -> BadSetting {
        let (full, why) = (format!("{}.{key}", B::SECTION.name), why.into());
        let Some((section, setting)) = self.model.find(&full) else {
            return BadSetting { setting: full, fault: SettingFault::Unknown, why };
        };
        let effective = self.effective_of(section, setting);
        let as_flag = effective.layer == Layer::Flag.name();
        if effective.layer == Layer::Default.name()
            && let Some(value) = &effective.value
        {
            let flag = setting.flag.map(|flag| format!(" or --{flag}")).unwrap_or_default();
            let fault = SettingFault::NotAllowed(format!("{value} (the default)"));
            return BadSetting { setting: full, fault, why: format!("{why}; or set {}{flag}", setting.env) };
        }
        let value = match effective.value {
            Some(value) if as_flag && matches!(setting.kind, ValueKind::Millis { .. }) => {
                format!("{value}ms")
            }
            Some(value) => value.to_string(),
            None if setting.unset.is_empty() => {
                return BadSetting { setting: full, fault: SettingFault::NotSet, why };
            }
            None => format!("({})", setting.unset),
        };
        BadSetting { setting: effective.origin, fault: SettingFault::NotAllowed(value), why }
    }

    /// The settings file, if there is one.
    pub fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// Every setting with its value and origin, secrets redacted.
    pub fn effective(&self) -> Vec<Effective> {
        self.model.settings().map(|(section, setting)| self.effective_of(section, setting)).collect()
    }

    /// The variables that may hold a secret: of the settings that are never shown, and those whose present value isn't.
    pub fn secret_variables(&self) -> Vec<&'static str> {
        let is_shown =
            |setting: &Setting| std::env::var(setting.env).map_or(true, |text| setting.shown(&text) == text);
        let secret = self.model.settings().filter(|(_, setting)| setting.secret || !is_shown(setting));
        secret.map(|(_, setting)| setting.env).collect()
    }

    fn effective_of(&self, section: &Section, setting: &Setting) -> Effective {
        let key = format!("{}.{}", section.name, setting.key);
        let found = self.figment.find_value(&key).ok();
        let name = found
            .as_ref()
            .and_then(|value| self.figment.get_metadata(value.tag()))
            .map_or("default", |metadata| &metadata.name);
        let layer = Layer::ALL.into_iter().find(|layer| layer.name() == name).unwrap_or(Layer::Default);
        let from = setting.from_file.filter(|_| self.read_from.contains_key(&(layer, key.clone())));
        let written = match from {
            Some(from) => as_written(layer, section.name, from.key, from.env, Some(from.flag)),
            None => as_written(layer, section.name, setting.key, setting.env, setting.flag),
        };
        let origin = match (layer, &self.file) {
            (Layer::File, Some(file)) => format!("{written} in {}", file.display()),
            _ => written,
        };
        let value = found.map(|value| match value.as_str() {
            Some(text) => setting.shown(text).into(),
            None => serde_json::to_value(&value).unwrap_or_default(),
        });
        let Setting { unset, env, flag, kind, secret, .. } = *setting;
        let (kind, layer, about) = (kind.name(), layer.name(), section.about);
        Effective { key, about, value, unset, env, flag, kind, secret, layer, origin }
    }
}

/// One line for people, and of a settings file.
impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.value {
            Some(value) => format!("{} = {value}", self.key),
            None if self.unset.is_empty() => return write!(f, "# {} is not set", self.key),
            None => return write!(f, "# {} is not set: {}", self.key, self.unset),
        };
        match self.layer {
            "default" => write!(f, "{text}"),
            layer => write!(f, "{text:<60} # {layer}: {}", self.origin),
        }
    }
}
