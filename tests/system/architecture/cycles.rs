//! No two source files of a crate import each other, directly or through other files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::imports::{Files, Module};
use super::{crates, root};

/// Returns every module that can be reached from each.
fn reachable<'a>(
    dependencies: &'a BTreeMap<&Module, BTreeSet<Module>>,
) -> BTreeMap<&'a Module, BTreeSet<&'a Module>> {
    let from = |start: &'a Module| {
        let mut found = BTreeSet::new();
        let mut open = vec![start];
        while let Some(module) = open.pop() {
            for next in dependencies.get(module).into_iter().flatten() {
                if found.insert(next) {
                    open.push(next);
                }
            }
        }
        found
    };
    dependencies.keys().map(|module| (*module, from(module))).collect()
}

/// Returns the cycles of a crate, each as the paths of its files.
fn cycles(folder: &Path) -> BTreeSet<String> {
    let files = Files::read(folder);
    let dependencies = files.dependencies();
    let reachable = reachable(&dependencies);
    let name = |module: &Module| match module.is_empty() {
        true => "lib".to_owned(),
        false => module.join("/"),
    };
    let cycle = |module: &&Module| -> Option<String> {
        let is_mutual =
            |other: &&&Module| reachable.get(**other).is_some_and(|it| it.contains(*module));
        let members: Vec<_> =
            reachable[*module].iter().filter(is_mutual).map(|it| name(it)).collect();
        (!members.is_empty()).then(|| members.join(" "))
    };
    dependencies.keys().filter_map(cycle).collect()
}

#[test]
fn no_files_of_a_crate_import_each_other() {
    let mut found = Vec::new();
    let folders = crates().into_iter().map(|it| it.folder);
    for folder in folders.filter(|folder| folder != "tests") {
        let source: PathBuf = root().join(&folder).join("src");
        let files = Files::read(&source);
        assert!(!files.names.is_empty(), "{folder} has no files");
        found.extend(cycles(&source).into_iter().map(|cycle| format!("{folder}: {cycle}")));
    }
    assert!(found.is_empty(), "{} cycles:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_cycle_is_found_through_reexports_and_macros() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c;");
    write("a.rs", "use crate::b::Item; pub struct A; fn f(_: Item) {}");
    write("b/mod.rs", "mod item; pub use item::Item;");
    write("b/item.rs", "pub struct Item; fn f() { println!(\"{}\", crate::c::name()); }");
    write("c.rs", "pub fn name() {} #[cfg(test)] mod tests { use crate::a::A; }");
    assert_eq!(cycles(dir.path()), BTreeSet::new());
    write("c.rs", "pub fn name(_: crate::a::A) {}");
    assert_eq!(cycles(dir.path()), BTreeSet::from(["a b/item c".to_owned()]));
}
