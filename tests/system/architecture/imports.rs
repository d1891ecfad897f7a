//! Which source files of a crate import which.
//!
//! A file depends on another when it names one of its items in an import or in a path, also through
//! a re-export. Tests and doc comments do not count; neither does a `mod.rs` that only declares and
//! re-exports its modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use super::rust_files_in;

/// The path of a module from the root of its crate.
pub(super) type Module = Vec<String>;

/// What a file names.
#[derive(Default)]
pub(super) struct Names {
    /// Paths, and whether each is a re-export.
    paths: Vec<(Vec<String>, bool)>,
}

impl Names {
    fn add_tree(&mut self, prefix: &[String], tree: &UseTree, is_public: bool) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree, is_public),
            UseTree::Name(name) if name.ident == "self" => {
                self.paths.push((prefix.to_vec(), is_public));
            }
            UseTree::Name(name) => self.paths.push((with(&name.ident), is_public)),
            UseTree::Rename(rename) => self.paths.push((with(&rename.ident), is_public)),
            UseTree::Glob(_) => self.paths.push((prefix.to_vec(), is_public)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(prefix, tree, is_public);
                }
            }
        }
    }

    /// Adds the paths in the arguments of a macro, which are not parsed.
    fn add_tokens(&mut self, tokens: &str) {
        let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for path in tokens.replace(" :: ", "::").split(|c| !part(c)).filter(|it| it.contains("::"))
        {
            let parts = path.split("::").map(str::to_owned);
            self.paths.push((parts.filter(|part| !part.is_empty()).collect(), false));
        }
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    let test = |it: &Attribute| {
        it.path().is_ident("cfg")
            && it.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    };
    attributes.iter().any(test)
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Const(it) => &it.attrs,
            Item::Fn(it) => &it.attrs,
            Item::Impl(it) => &it.attrs,
            Item::Mod(it) => &it.attrs,
            Item::Struct(it) => &it.attrs,
            Item::Use(it) => &it.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        self.add_tree(&[], &item.tree, is_public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let parts = path.segments.iter().map(|segment| segment.ident.to_string());
            self.paths.push((parts.collect(), false));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, macro_call: &'ast syn::Macro) {
        self.add_tokens(&macro_call.tokens.to_string());
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// The files of one crate.
pub(super) struct Files {
    pub(super) names: BTreeMap<Module, Names>,
    /// Targets of the re-exports, by module and name.
    reexports: BTreeMap<(Module, String), Vec<String>>,
}

impl Files {
    pub(super) fn read(folder: &Path) -> Self {
        let mut names = BTreeMap::new();
        for path in rust_files_in(folder) {
            let file = path.strip_prefix(folder).unwrap();
            let parts: Vec<_> = file.with_extension("").iter().map(text).collect();
            if parts.iter().any(|part| part == "tests" || part.ends_with("_tests")) {
                continue;
            }
            let is_face = |part: &String| ["lib", "main", "mod"].contains(&part.as_str());
            let end = parts.len() - usize::from(parts.last().is_some_and(is_face));
            let mut found = Names::default();
            found.visit_file(&syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap());
            // A crate's binary belongs to its library.
            names
                .entry(parts[..end].to_vec())
                .or_insert_with(Names::default)
                .paths
                .extend(found.paths);
        }
        let mut files = Self { names, reexports: BTreeMap::new() };
        for (module, found) in &files.names {
            for (path, _) in found.paths.iter().filter(|(_, is_public)| *is_public) {
                let Some(target) = files.absolute(module, path) else { continue };
                let Some(name) = target.last().cloned() else { continue };
                files.reexports.insert((module.clone(), name), target);
            }
        }
        files
    }

    /// Returns a path from the root of the crate; `None` for a path to another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let mut base = module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child => {
                base.push(child.to_owned());
                if !self.names.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        Some([base, rest.to_vec()].concat())
    }

    /// Returns the module that defines an item.
    fn definer(&self, path: &[String], depth: usize) -> Module {
        let modules = (0..=path.len()).rev().map(|end| path[..end].to_vec());
        let module = modules.into_iter().find(|it| self.names.contains_key(it)).unwrap_or_default();
        let rest = &path[module.len()..];
        let reexport = rest.first().and_then(|name| {
            self.reexports.get(&(module.clone(), name.clone())).filter(|target| *target != path)
        });
        match reexport {
            Some(target) if depth < 8 => {
                self.definer(&[target.clone(), rest[1..].to_vec()].concat(), depth + 1)
            }
            _ => module,
        }
    }

    /// Returns the modules that each module depends on.
    pub(super) fn dependencies(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, found): (&'_ Module, &Names)| -> BTreeSet<Module> {
            let targets = found.paths.iter().filter_map(|(path, is_public)| {
                let path = self.absolute(module, path)?;
                let target = self.definer(&path, 0);
                let is_reexport = *is_public && target.starts_with(module);
                (target != *module && !is_reexport).then_some(target)
            });
            targets.collect()
        };
        self.names.iter().map(|entry| (entry.0, of(entry))).collect()
    }
}

fn text(part: &std::ffi::OsStr) -> String {
    part.to_str().unwrap().to_owned()
}
