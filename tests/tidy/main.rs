//! The house rules that a machine can hold: arrows between crates, absences, headers, leftovers.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom, besides itself. `highwater-lab` may use everything below the command.
const ARROWS: [(&str, &[&str]); 8] = [
    ("highwater-core", &[]),
    ("highwater-store", &["highwater-core"]),
    ("highwater-folder", &["highwater-core"]),
    ("highwater-net", &["highwater-core"]),
    ("highwater", &["highwater-core", "highwater-store", "highwater-folder", "highwater-net"]),
    ("highwater-web", &["highwater", "highwater-core"]),
    (
        "highwater-lab",
        &[
            "highwater-core",
            "highwater-store",
            "highwater-folder",
            "highwater-net",
            "highwater",
            "highwater-web",
        ],
    ),
    ("highwater-cli", &["highwater-core", "highwater", "highwater-web", "highwater-lab"]),
];

/// What deciding code must not know: I/O, clocks, runtimes, and maps whose order is chance.
const FOREIGN_TO_CORE: [&str; 9] =
    ["tokio", "tonic", "prost", "sled", "std::fs", "std::net", "Instant", "SystemTime", "HashMap"];

/// Longest function that is admired anywhere; the house says about 30 lines.
const FUNCTION_LINES_MAX: usize = 70;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds it").to_owned()
}

/// Every Rust file of the workspace below `below`, with its text.
fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&workspace().join(below), &mut found);
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).expect("the workspace is readable").flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            found.push((path, text));
        }
    }
}

/// A file's code without its comments and its text without its unit tests.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(workspace().join("crates")).expect("readable").flatten() {
        let text =
            fs::read_to_string(entry.path().join("Cargo.toml")).expect("every crate has one");
        let table: toml::Table = text.parse().expect("cargo has read it too");
        manifests.insert(entry.file_name().to_string_lossy().into_owned(), table);
    }
    manifests
}

fn dependencies(manifest: &toml::Table) -> Vec<&str> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn crates_use_only_what_the_arrows_allow() {
    let manifests = manifests();
    assert_eq!(manifests.len(), ARROWS.len(), "a crate without arrows: {:?}", manifests.keys());
    for (name, allowed) in ARROWS {
        for used in dependencies(&manifests[name]) {
            let ours = used.starts_with("highwater");
            assert!(!ours || allowed.contains(&used), "{name} must not use {used}");
        }
    }
}

#[test]
fn every_crate_follows_the_lints_of_the_workspace() {
    for (name, manifest) in manifests() {
        let follows = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(follows.and_then(toml::Value::as_bool), Some(true), "{name}");
    }
}

#[test]
fn core_knows_no_io_no_clock_and_no_map_of_random_order() {
    for (path, text) in sources("crates/highwater-core/src") {
        for foreign in FOREIGN_TO_CORE {
            assert!(!mentions(&code(&text), foreign), "{} names {foreign}", path.display());
        }
    }
}

#[test]
fn one_file_of_the_store_names_sled_and_nobody_else_does() {
    let naming = files_that_name("sled");
    let in_store =
        |path: &&PathBuf| path.starts_with(workspace().join("crates/highwater-store/src"));
    assert_eq!(naming.iter().filter(in_store).count(), 1, "{naming:?}");
    assert_eq!(naming.len(), 1, "{naming:?}");
}

#[test]
fn only_the_net_names_protobuf_and_grpc() {
    let net = workspace().join("crates/highwater-net");
    for word in ["prost", "tonic"] {
        let outside: Vec<_> =
            files_that_name(word).into_iter().filter(|path| !path.starts_with(&net)).collect();
        assert!(outside.is_empty(), "{word}: {outside:?}");
    }
}

/// Files whose product code has a path into the crate `name`, as `name::` or `use name`.
fn files_that_name(name: &str) -> Vec<PathBuf> {
    let uses = |text: &str| {
        let code = code(text);
        mentions(&code, &format!("{name}::")) || mentions(&code, &format!("use {name}"))
    };
    sources("crates").into_iter().filter(|(_, text)| uses(text)).map(|(path, _)| path).collect()
}

/// Whether `word` stands in the code by itself, not as a part of a longer name or of a path into
/// another module.
fn mentions(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let path = word.ends_with(':');
        let inner = path && before == Some(':');
        !joins(before) && !inner && (path || !joins(after))
    })
}

#[test]
fn every_file_begins_with_its_story() {
    for (path, text) in sources("crates").into_iter().chain(sources("tests")) {
        assert!(text.starts_with("//! "), "{} has no header", path.display());
    }
}

#[test]
fn nothing_is_left_over() {
    let leftovers = [["dbg", "!("].concat(), ["todo", "!("].concat(), ["TO", "DO"].concat()];
    let leftovers = leftovers.into_iter().chain([["FIX", "ME"].concat(), ["XX", "X"].concat()]);
    let leftovers: Vec<String> = leftovers.collect();
    for (path, text) in sources("crates").into_iter().chain(sources("tests")) {
        for leftover in &leftovers {
            assert!(!text.contains(leftover.as_str()), "{} has {leftover}", path.display());
        }
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("// ").unwrap_or_default();
            let dead = comment.ends_with(';') && comment.contains(['(', '=']);
            assert!(!dead, "{}:{}: code in a comment", path.display(), number + 1);
        }
    }
}

/// A patch that no longer fits breaks no rule, and whoever runs `.ci/sabotage` is the last to hear of
/// it. Not a repository: the sources were unpacked, and nobody is about to change them.
#[test]
fn every_broken_rule_fits_the_sources_and_says_what_notices_it() {
    let git = |args: &[&str]| Command::new("git").args(args).current_dir(workspace()).output();
    if !git(&["rev-parse", "--git-dir"]).is_ok_and(|output| output.status.success()) {
        println!("skipped: without git and a repository nothing can be applied");
        return;
    }
    for entry in fs::read_dir(workspace().join("tests/sabotage")).expect("readable").flatten() {
        let name = entry.file_name().into_string().expect("names are UTF-8");
        let text = fs::read_to_string(entry.path()).expect("patches are UTF-8");
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("Broken rule: ")), "{name:?}");
        let how = lines.next().and_then(|line| line.strip_prefix("Noticed by: "));
        let known = how.is_some_and(|how| how.starts_with("story ") || how.starts_with("test "));
        assert!(known, "{name} is noticed by {how:?}");
        let fits = git(&["apply", "--check", &format!("tests/sabotage/{name}")]);
        let fits = fits.expect("git runs");
        assert!(fits.status.success(), "{name}: {}", String::from_utf8_lossy(&fits.stderr));
    }
}

#[test]
fn unsafe_code_is_in_one_small_file_and_nowhere_else() {
    let word = ["unsafe", " "].concat();
    let naming = sources("crates").into_iter().filter(|(_, text)| code(text).contains(&word));
    let naming: Vec<_> = naming.map(|(path, _)| path).collect();
    let allowed = workspace().join("crates/highwater-cli/src/allocator.rs");
    assert!(naming.iter().all(|path| *path == allowed), "{naming:?}");
}

#[test]
fn no_function_is_longer_than_a_reader_can_hold() {
    for (path, text) in sources("crates") {
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match &open {
                None if begins_function(line) => open = Some((number, indent, line.trim().into())),
                // What a trait asks for has no body.
                Some((_, at, _)) if indent == *at && line.ends_with(';') => open = None,
                Some((start, at, name)) if line.trim_end() == format!("{}}}", " ".repeat(*at)) => {
                    let length = number - start + 1;
                    let place = path.display();
                    assert!(length <= FUNCTION_LINES_MAX, "{place}: {name}: {length} lines");
                    open = None;
                }
                _ => {}
            }
        }
    }
}

fn begins_function(line: &str) -> bool {
    let words = line.split_whitespace().take_while(|word| *word != "fn");
    let known = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern"];
    line.contains("fn ")
        && !line.ends_with(';')
        && words.into_iter().all(|w| known.contains(&w))
        && !line.trim_end().ends_with('}')
}
