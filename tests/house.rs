//! The rules of the house: who may know whom, and what every file looks like.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("jobs/ lies in the workspace").to_owned()
}

/// The names of all packages that `package` is built with.
fn tree(package: &str, flags: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--package", package])
        .args(flags)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8_lossy(&output.stdout);
    names.lines().filter_map(|line| line.split(' ').next().map(Into::into)).collect()
}

#[track_caller]
fn assert_free_of(package: &str, flags: &[&str], strangers: &[&str]) {
    let names = tree(package, flags);
    assert!(names.iter().any(|name| name == package), "cargo tree shows {package} itself");
    for stranger in strangers {
        assert!(!names.iter().any(|name| name == stranger), "{package} {flags:?} depends on {stranger}");
    }
}

/// Every Rust file of ours with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["common", "master", "slave", "jobs", "tests"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of ours") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source is text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 30, "only {} sources were found", found.len());
    found
}

#[track_caller]
fn assert_none(rule: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{rule}; it is broken by\n  {}", offenders.join("\n  "));
}

#[test]
fn an_algorithm_needs_only_the_small_api() {
    let strangers = ["flexps-master", "flexps-slave", "hdfs-native", "reqwest"];
    assert_free_of("flexps-jobs", &["--no-default-features"], &strangers);
}

#[test]
fn master_and_slave_do_not_know_each_other() {
    assert_free_of("flexps-master", &[], &["flexps-slave", "flexps-jobs"]);
    assert_free_of("flexps-slave", &[], &["flexps-master", "flexps-jobs"]);
    assert_free_of("flexps-common", &[], &["flexps-master", "flexps-slave", "flexps-jobs"]);
}

#[test]
fn every_module_opens_with_what_it_is() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_none("every file starts with `//! `", silent.map(|(path, _)| path.display().to_string()).collect());
}

#[test]
fn a_file_can_be_read_in_one_sitting() {
    let long = sources().into_iter().filter(|(_, text)| text.lines().count() > 500);
    let long = long.map(|(path, text)| format!("{}: {} lines", path.display(), text.lines().count()));
    assert_none("no file is longer than 500 lines", long.collect());
}

#[test]
fn one_file_uses_bincode() {
    let users = sources()
        .into_iter()
        .filter(|(path, text)| text.contains(concat!("bincode", "::")) && !path.ends_with("common/src/wire/codec.rs"));
    assert_none(
        "only common/src/wire/codec.rs uses bincode",
        users.map(|(path, _)| path.display().to_string()).collect(),
    );
}

#[test]
fn nothing_is_left_half_done() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    let left = sources().into_iter().filter(|(_, text)| marks.iter().any(|mark| text.contains(mark)));
    assert_none("no file holds an unfinished part", left.map(|(path, _)| path.display().to_string()).collect());
}
