//! The structure of the source that the workspace promises: no circles between files of one crate, and one type for
//! one name. Read from the source itself by `syn`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// A module by its segments from the crate's root, which is the empty path.
type Module = Vec<String>;

/// One file of a crate.
#[derive(Default)]
struct Source {
    file: PathBuf,
    /// Paths that begin with `crate`, `self` or `super`, made absolute.
    names: BTreeSet<Vec<String>>,
    /// Names that this module re-exports, and the absolute paths that they stand for.
    reexports: BTreeMap<String, Vec<String>>,
    /// Types that others can name.
    types: Vec<String>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is in the workspace").to_path_buf()
}

/// The `src` folders of all packages of the workspace.
fn crates() -> Vec<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .no_deps()
        .other_options(["--offline", "--locked"].map(str::to_owned))
        .exec()
        .expect("cargo metadata works offline");
    let folder = |package: &cargo_metadata::Package| {
        package.manifest_path.parent().expect("a manifest has a folder").join("src").into_std_path_buf()
    };
    metadata.packages.iter().map(folder).collect()
}

/// Every module of the crate whose root is in `src`.
fn modules(src: &Path) -> BTreeMap<Module, Source> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let mut module: Module =
                    path.strip_prefix(src).expect("below").with_extension("").iter().map(segment).collect();
                if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
                    module.pop();
                }
                let text = std::fs::read_to_string(&path).expect("a source can be read");
                let parsed =
                    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let mut reader =
                    Reader { module: module.clone(), source: Source { file: path, ..Source::default() } };
                reader.visit_file(&parsed);
                // A binary beside a library of the same folder: both are the root.
                let source: &mut Source = found.entry(module).or_default();
                source.file = reader.source.file;
                source.names.extend(reader.source.names);
                source.reexports.extend(reader.source.reexports);
                source.types.extend(reader.source.types);
            }
        }
    }
    found
}

fn segment(part: &std::ffi::OsStr) -> String {
    part.to_string_lossy().into_owned()
}

struct Reader {
    module: Module,
    source: Source,
}

impl Reader {
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&self.module, &path[1..]].concat()),
            "super" => {
                let up = self.module.len().checked_sub(supers)?;
                Some([&self.module[..up], &path[supers..]].concat())
            }
            _ => None,
        }
    }

    fn flatten(prefix: &[String], tree: &syn::UseTree, into: &mut Vec<(Vec<String>, String)>) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => Self::flatten(&with(&path.ident), &path.tree, into),
            syn::UseTree::Name(name) if name.ident == "self" => {
                into.push((prefix.to_vec(), prefix.last().cloned().unwrap_or_default()));
            }
            syn::UseTree::Name(name) => into.push((with(&name.ident), name.ident.to_string())),
            syn::UseTree::Rename(rename) => into.push((with(&rename.ident), rename.rename.to_string())),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| Self::flatten(prefix, tree, into));
            }
            _ => into.push((prefix.to_vec(), "*".to_owned())),
        }
    }

    fn type_named(&mut self, visibility: &syn::Visibility, name: &syn::Ident) {
        if !matches!(visibility, syn::Visibility::Inherited) {
            self.source.types.push(name.to_string());
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Tests beside the code may use everything; a module in braces is its file's.
        if item.ident != "tests" {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut found = Vec::new();
        Self::flatten(&[], &item.tree, &mut found);
        for (path, name) in found {
            let path = self.absolute(&path).unwrap_or_else(|| [&self.module[..], &path].concat());
            if !matches!(item.vis, syn::Visibility::Inherited) {
                self.source.reexports.insert(name, path.clone());
            }
            self.source.names.insert(path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.source.names.extend(self.absolute(&parts));
        syn::visit::visit_path(self, path);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_named(&item.vis, &item.ident);
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_named(&item.vis, &item.ident);
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_named(&item.vis, &item.ident);
        syn::visit::visit_item_trait(self, item);
    }
}

/// The module in which `path` is defined: re-exports are followed to the module that they name.
fn home(path: &[String], modules: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let longest =
        (0..=path.len()).rev().map(|length| &path[..length]).find(|module| modules.contains_key(*module))?;
    let source = &modules[longest];
    if let Some(name) = path.get(longest.len())
        && let Some(meant) = source.reexports.get(name)
        && depth < 8
    {
        let full = [meant, &path[longest.len() + 1..]].concat();
        if let Some(module) = home(&full, modules, depth + 1) {
            return Some(module);
        }
    }
    Some(longest.to_vec())
}

fn related(one: &Module, other: &Module) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    long.len() == short.len() + 1 && long.starts_with(short)
}

/// A way from `from` to `to`, or nothing.
fn way<'a>(
    edges: &'a BTreeMap<Module, BTreeSet<Module>>,
    from: &'a Module,
    to: &Module,
) -> Option<Vec<&'a Module>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::new();
    while let Some(so_far) = ways.pop() {
        for next in edges.get(*so_far.last()?).into_iter().flatten() {
            if next == to {
                return Some(so_far);
            }
            if seen.insert(next) {
                ways.push([so_far.clone(), vec![next]].concat());
            }
        }
    }
    None
}

#[test]
fn files_of_one_crate_form_no_circle() {
    let mut circles = BTreeSet::new();
    let mut files = 0;
    for src in crates() {
        let modules = modules(&src);
        files += modules.len();
        let mut edges: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, source) in &modules {
            for path in &source.names {
                if let Some(to) = home(path, &modules, 0)
                    && to != *module
                    && !related(&to, module)
                {
                    edges.entry(module.clone()).or_default().insert(to);
                }
            }
        }
        for (from, tos) in &edges {
            for to in tos {
                if let Some(back) = way(&edges, to, from) {
                    let mut circle: Vec<_> = back.into_iter().chain([from]).cloned().collect();
                    circle.sort();
                    let name = |module: &Module| {
                        modules[module].file.strip_prefix(workspace()).expect("ours").display().to_string()
                    };
                    circles.insert(circle.iter().map(name).collect::<Vec<_>>().join(" <-> "));
                }
            }
        }
    }
    assert!(files > 200, "the sources were read");
    assert!(
        circles.is_empty(),
        "files that need each other (only a parent and its child may):\n{}",
        circles.into_iter().collect::<Vec<_>>().join("\n")
    );
}

/// Names of several types that are one idea on both sides of a door, and which door.
const ONE_IDEA: &[(&str, &str)] = &[
    ("Args", "the arguments of a command, in the command's module, as clap's users call them"),
    ("Etcd", "the store: its register in the backend, its server in the testbed"),
    ("Fence", "the fence of a store, with the same surface in each backend"),
    ("Postgres", "the store: its register in the backend, its server in the testbed"),
];

#[test]
fn a_type_that_others_can_name_shares_its_name_with_no_other() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for src in crates() {
        for source in modules(&src).into_values() {
            let file = source.file.strip_prefix(workspace()).expect("ours").display().to_string();
            source.types.into_iter().for_each(|name| homes.entry(name).or_default().push(file.clone()));
        }
    }
    assert!(homes.len() > 200, "the sources were read");
    let is_shared = |name: &str| homes.get(name).is_some_and(|files| files.len() > 1);
    let alone: Vec<_> = ONE_IDEA.iter().map(|(name, _)| *name).filter(|name| !is_shared(name)).collect();
    assert!(alone.is_empty(), "no longer names of several types, so ONE_IDEA must not list them: {alone:?}");
    let allowed = |name: &str| ONE_IDEA.iter().any(|(one, _)| *one == name);
    let shared = homes.iter().filter(|(name, _)| is_shared(name) && !allowed(name));
    let shared: Vec<_> = shared.map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert!(shared.is_empty(), "one name for several types ({}):\n{}", shared.len(), shared.join("\n"));
}

/// The checks of the suite's cases that don't say what was seen.
#[derive(Default)]
struct Checks {
    count: usize,
    mute: Vec<String>,
}

impl<'ast> Visit<'ast> for Checks {
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        let message = match name.as_str() {
            "ensure" => 1,
            "bail" => 0,
            _ => return,
        };
        self.count += 1;
        let arguments = syn::punctuated::Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        let arguments = call.parse_body_with(arguments).expect("the arguments of a check");
        let text = match arguments.get(message) {
            Some(syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. })) => text.value(),
            _ => String::new(),
        };
        let words: String = text.split('{').map(|part| part.rsplit('}').next().unwrap_or(part)).collect();
        if !text.contains('{') || !words.contains(char::is_alphabetic) {
            self.mute.push(format!("{name}!({})", call.tokens));
        }
        for argument in &arguments {
            syn::visit::visit_expr(self, argument);
        }
    }
}

#[test]
fn every_check_of_the_suite_says_in_words_what_was_seen() {
    let mut checks = Checks::default();
    for entry in std::fs::read_dir(workspace().join("conformance/src/cases")).expect("the suite's cases") {
        let path = entry.expect("an entry can be read").path();
        let text = std::fs::read_to_string(&path).expect("a source can be read");
        checks.visit_file(&syn::parse_file(&text).expect("a case parses"));
    }
    assert!(checks.count > 50, "found only {} checks: are the cases elsewhere by now?", checks.count);
    assert!(
        checks.mute.is_empty(),
        "give each of these a message of words and values, what was seen against what was expected, or use a helper of \
         conformance/src/check.rs:\n{}",
        checks.mute.join("\n")
    );
}
