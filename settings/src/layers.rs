//! The sources of settings: the file, the environment, the flags; each read and checked on its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::bad::meant;
use super::secret::{NOT_SHOWN, may_hold_a_secret};
use super::{BadSetting, Model, Setting, SettingFault};

/// The source of a value; later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Nobody.
    Default,
    /// The settings file.
    File,
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl Layer {
    pub(super) const ALL: [Self; 4] = [Self::Default, Self::File, Self::Environment, Self::Flag];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// One layer's values, by dotted key, all of them checked: they may be used if none is bad.
pub(super) struct LayerValues {
    pub(super) layer: Layer,
    pub(super) values: BTreeMap<String, Value>,
    /// For values that stand in a file of their own: which file.
    pub(super) read_from: BTreeMap<String, PathBuf>,
    /// What it has that can't be used.
    pub(super) bad: Vec<BadSetting>,
}

/// A setting's name as the user wrote it.
pub(super) fn as_written(layer: Layer, section: &str, key: &str, env: &str, flag: Option<&str>) -> String {
    match layer {
        Layer::Environment => env.to_owned(),
        Layer::Flag => format!("--{}", flag.unwrap_or(key)),
        Layer::File | Layer::Default => format!("{section}.{key}"),
    }
}

impl LayerValues {
    fn new(layer: Layer) -> Self {
        Self { layer, values: BTreeMap::new(), read_from: BTreeMap::new(), bad: Vec::new() }
    }

    pub(super) fn defaults(model: &Model) -> Self {
        let mut this = Self::new(Layer::Default);
        for (section, setting) in model.settings() {
            if let Some(text) = setting.default {
                this.values.insert(format!("{}.{}", section.name, setting.key), setting.kind.read(text));
            }
        }
        this
    }

    pub(super) fn from_environment(model: &Model, environment: &BTreeMap<OsString, OsString>) -> Self {
        let (mut given, mut bad) = (BTreeMap::new(), Vec::new());
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            if model.is_ours(name) && !model.knows_variable(name) {
                let meant = meant(name, model.all_variables());
                bad.push(BadSetting {
                    setting: format!("environment variable {name}"),
                    fault: SettingFault::Unknown,
                    why: format!("{meant}unset it; `leasehold --help-all` lists all"),
                });
            } else if model.knows_variable(name) {
                match value.to_str() {
                    Some(value) => drop(given.insert(name.to_owned(), value.to_owned())),
                    None => bad.push(BadSetting {
                        setting: name.to_owned(),
                        fault: SettingFault::NotAllowed("(not shown: no valid UTF-8)".to_owned()),
                        why: "use UTF-8; write it anew".to_owned(),
                    }),
                }
            }
        }
        let mut this = Self::from_texts(model, Layer::Environment, |env, _| given.get(env).cloned());
        this.bad.splice(0..0, bad);
        this
    }

    pub(super) fn from_flags(model: &Model, flags: &BTreeMap<String, String>) -> Self {
        Self::from_texts(model, Layer::Flag, |_, flag| flag.and_then(|flag| flags.get(flag).cloned()))
    }

    fn from_texts(
        model: &Model,
        layer: Layer,
        text_of: impl Fn(&str, Option<&str>) -> Option<String>,
    ) -> Self {
        let mut this = Self::new(layer);
        for (section, setting) in model.settings() {
            if let Some(text) = text_of(setting.env, setting.flag) {
                let value = match layer {
                    Layer::Flag => setting.kind.read_flag(&text),
                    _ => setting.kind.read(&text),
                };
                this.values.insert(format!("{}.{}", section.name, setting.key), value);
            }
            if let Some(from) = setting.from_file
                && let Some(path) = text_of(from.env, Some(from.flag))
            {
                this.values.insert(format!("{}.{}", section.name, from.key), Value::from(path));
            }
        }
        this.check(model, None);
        this
    }

    pub(super) fn from_file(model: &Model, path: &Path, how_named: &str) -> Self {
        let mut this = Self::new(Layer::File);
        match read(path, how_named) {
            Ok(table) => this.flatten(model, path, "", &table),
            Err(bad) => this.bad.push(bad),
        }
        this.check(model, Some(path));
        this
    }

    fn flatten(&mut self, model: &Model, path: &Path, prefix: &str, table: &Dict) {
        for (key, value) in table {
            let full = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let setting = format!("{full} in {}", path.display());
            if model.knows_key(&full) {
                self.values.insert(full, value.clone());
            } else if !model.knows_table(&full) {
                let known = model.keys_in(prefix);
                let meant = meant(key, known.split(", "));
                let why = format!("{meant}remove it, or use one of {known}");
                self.bad.push(BadSetting { setting, fault: SettingFault::Unknown, why });
            } else if let Value::Dict(_, inner) = value {
                self.flatten(model, path, &full, inner);
            } else {
                let why =
                    format!("it is a table: write [{full}] and below it one of {}", model.keys_in(&full));
                self.bad.push(BadSetting { setting, fault: SettingFault::NotAllowed(shown(value)), why });
            }
        }
    }

    /// Refuses values of the wrong kind, and brings in those that stand in files of their own.
    fn check(&mut self, model: &Model, file: Option<&Path>) {
        for (section, setting) in model.settings() {
            let layer = self.layer;
            let named = |key, env, flag| {
                let text = as_written(layer, section.name, key, env, flag);
                file.map_or(text.clone(), |file| format!("{text} in {}", file.display()))
            };
            let name = || named(setting.key, setting.env, setting.flag);
            let key = format!("{}.{}", section.name, setting.key);
            if let Some(value) = self.values.get(&key) {
                self.bad.extend(check_value(setting, value, layer, name()).err());
            }
            let Some(from) = setting.from_file else { continue };
            let Some(value) = self.values.remove(&format!("{}.{}", section.name, from.key)) else { continue };
            let other = self.values.contains_key(&key).then(name);
            match value_of_file(setting, &value, &named(from.key, from.env, Some(from.flag)), other) {
                Ok((path, inner)) => {
                    self.read_from.insert(key.clone(), path);
                    self.values.insert(key, inner);
                }
                Err(bad) => self.bad.push(bad),
            }
        }
    }
}

/// The table of a settings file.
fn read(path: &Path, how_named: &str) -> Result<Dict, BadSetting> {
    let bad = |why: String| BadSetting {
        setting: how_named.to_owned(),
        fault: SettingFault::NotAllowed(shown(&Value::from(path.display().to_string()))),
        why,
    };
    let text = fs::read_to_string(path)
        .map_err(|error| bad(format!("the file can't be read: {error}; name a readable TOML file")))?;
    Toml::from_str::<Dict>(&text)
        .map_err(|error| bad(format!("the file is not valid TOML: {}", toml_error(&error.to_string()))))
}

/// The value that stands in the file that `from` names, a setting called `name`; `other` is set to a value of its own.
fn value_of_file(
    setting: &Setting,
    from: &Value,
    name: &str,
    other: Option<String>,
) -> Result<(PathBuf, Value), BadSetting> {
    let bad = |why: String| BadSetting {
        setting: name.to_owned(),
        fault: SettingFault::NotAllowed(shown(from)),
        why,
    };
    let path = from.as_str().filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| bad("use the path of a file that holds the value".to_owned()))?;
    if let Some(other) = other {
        return Err(bad(format!("{other} is set as well; remove one of the two")));
    }
    let text = fs::read_to_string(path)
        .map_err(|error| bad(format!("the file can't be read: {error}; name a readable file")))?;
    let inner = Value::from(text.trim());
    check_value(setting, &inner, Layer::Environment, format!("the content of {path} ({name})"))?;
    Ok((PathBuf::from(path), inner))
}

fn check_value(setting: &Setting, value: &Value, layer: Layer, name: String) -> Result<(), BadSetting> {
    setting.kind.check(value, layer == Layer::Flag).map_err(|allowed| {
        let text = value.as_str();
        let shown = match text {
            Some(text) => format!("{:?}", setting.shown(text)),
            None if setting.secret => NOT_SHOWN.to_owned(),
            None => shown(value),
        };
        let quotes = if text.is_none() && setting.kind.is_text() { ", in quotes" } else { "" };
        BadSetting {
            setting: name,
            fault: SettingFault::NotAllowed(shown),
            why: format!("{allowed}{quotes}"),
        }
    })
}

/// A value as the user would write it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) if may_hold_a_secret(text) => NOT_SHOWN.to_owned(),
        Value::String(_, text) => format!("{text:?}"),
        Value::Dict(..) => "(a table)".to_owned(),
        Value::Array(..) => "(an array)".to_owned(),
        other => serde_json::to_string(other).unwrap_or_else(|_| "(a value)".to_owned()),
    }
}

/// The parser's message on one line. It quotes the offending line of the file, which may hold a secret: left out.
fn toml_error(message: &str) -> String {
    let lines = message.lines().filter(|line| !line.contains('|') && !line.trim().is_empty());
    let text = lines.map(str::trim).collect::<Vec<_>>().join(": ");
    format!("{text}; fix it there")
}

impl Provider for LayerValues {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.layer.name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut root = Dict::new();
        for (key, value) in &self.values {
            insert(&mut root, key, value.clone());
        }
        Ok(Profile::Default.collect(root))
    }
}

pub(super) fn insert(table: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((head, tail)) => {
            let inner = table.entry(head.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, tail, value);
            }
        }
    }
}
