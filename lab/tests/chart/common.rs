//! Rendering, and a look at what was rendered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::Value;

/// The example values: one for each mode, those of the widest reach, and a move.
pub(crate) const EXAMPLES: [&str; 8] =
    ["k8s", "postgres", "etcd", "sqlite", "disabled", "full", "shared", "move"];

/// Those, and the one that changes every value of pods and names, whose pods also have other people's containers.
pub(crate) const ALL: [&str; 9] =
    ["k8s", "postgres", "etcd", "sqlite", "disabled", "full", "shared", "move", "custom"];

static HELM: LazyLock<PathBuf> = LazyLock::new(|| {
    let had = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(lease_testbed::helm::program())
    });
    had.join().expect("no panic").expect("helm is had")
});

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn chart() -> PathBuf {
    repository().join("deploy/helm/leasehold")
}

/// The program that the pods run, built beside the lab.
pub(crate) fn leasehold() -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_leasehold-lab")).with_file_name("leasehold");
    assert!(program.is_file(), "build it first: cargo build -p leasehold");
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// Runs helm on the chart with an example's values and more `--set`s. Returns what it printed, or its complaint.
pub(crate) fn helm(command: &[&str], example: &str, sets: &[&str]) -> Result<String, String> {
    helm_on(&chart(), command, example, sets)
}

/// The same, on a chart in another folder.
pub(crate) fn helm_on(
    folder: &Path,
    command: &[&str],
    example: &str,
    sets: &[&str],
) -> Result<String, String> {
    let values = format!("--values={}/ci/{example}-values.yaml", folder.display());
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let args: Vec<_> = command.iter().copied().chain(["--namespace=prod", &values]).chain(sets).collect();
    run(&args, folder)
}

/// Runs helm with these arguments on a chart.
pub(crate) fn run(args: &[&str], folder: &Path) -> Result<String, String> {
    let output = Command::new(&*HELM).args(args).arg(folder).output().expect("helm runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stdout) + &text(&output.stderr)),
    }
}

/// Every manifest, hooks among them.
pub(crate) fn render(example: &str, sets: &[&str]) -> Result<Vec<Value>, String> {
    manifests(&helm(&["template", "leasehold"], example, sets)?)
}

/// The manifests that helm has printed.
pub(crate) fn manifests(text: &str) -> Result<Vec<Value>, String> {
    let manifests: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    Ok(manifests.into_iter().filter(|manifest| !manifest.is_null()).collect())
}

/// An example as it is, rendered once for all tests.
pub(crate) fn rendered(example: &str) -> Vec<Value> {
    static DONE: Mutex<BTreeMap<String, Vec<Value>>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let render = || render(example, &[]).unwrap_or_else(|error| panic!("{example}: {error}"));
    done.entry(example.to_owned()).or_insert_with(render).clone()
}

pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn kind(manifest: &Value) -> &str {
    text(manifest, "/kind")
}

pub(crate) fn name(manifest: &Value) -> &str {
    text(manifest, "/metadata/name")
}

pub(crate) fn of_kind<'a>(manifests: &'a [Value], wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    manifests.iter().filter(move |manifest| kind(manifest) == wanted)
}

/// The manifest of this kind and name.
pub(crate) fn one<'a>(manifests: &'a [Value], wanted: &str, called: &str) -> &'a Value {
    let found = manifests.iter().find(|manifest| kind(manifest) == wanted && name(manifest) == called);
    found.unwrap_or_else(|| panic!("there is no {wanted} {called}"))
}

/// The specification of the pods that it makes, if it makes any.
pub(crate) fn pod(manifest: &Value) -> Option<&Value> {
    match kind(manifest) {
        "Pod" => manifest.get("spec"),
        "Deployment" | "DaemonSet" | "Job" => manifest.pointer("/spec/template/spec"),
        _ => None,
    }
}

pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/initContainers").iter().chain(list(pod, "/containers"))
}

pub(crate) fn strings(values: &[Value]) -> Vec<&str> {
    values.iter().filter_map(Value::as_str).collect()
}
