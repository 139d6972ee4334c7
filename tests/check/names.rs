//! Names in the scripts of the world are checked, told and mended like any other.

use std::fs;

use anyhow::{Context, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::{damage, oracle};
use highwater_tests::with_cluster;
use serde_json::Value;

use crate::{PATIENCE, check, demand};

/// Each with its reason.
const NAMES: [(&str, &str); 12] = [
    ("composed", "caf\u{e9}"),
    ("decomposed, looking the same", "cafe\u{301}"),
    ("right to left", "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{0627}\u{0644}"),
    ("turns the rest of a line around", "a\u{202e}txt.exe"),
    ("Chinese", "\u{6c34}\u{4f4d}/\u{9ad8}\u{6c34}\u{4f4d}.txt"),
    ("Hangul", "\u{d55c}\u{ae00}"),
    ("a family of four code points and joiners", "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}"),
    ("beyond the 16 bits of others", "\u{1d538}"),
    ("a line break", "one\ntwo"),
    ("what moves a terminal's cursor", "\u{1b}[2Jgone"),
    ("quotes and a backslash", "\"'\\ $(x)"),
    ("dots and spaces", " .. "),
];

#[test]
fn names_in_every_script_are_compared_told_and_mended() {
    with_cluster(&["a", "b", "c"], &[(1, 0), (2, 1)], |cluster| {
        for (why, name) in NAMES {
            let path = cluster.folder(0).join(name);
            fs::create_dir_all(path.parent().context("no parent")?)?;
            fs::write(&path, why.repeat(40))?;
        }
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 0 && report["identical"] == Value::Bool(true), "{report}");

        let before = oracle::read_tree(&cluster.folder(2))?;
        cluster.nodes[2].stop()?;
        for (_, name) in NAMES {
            damage::rot_unnoticed(&cluster.nodes[2], SHARE, name, 9)?;
        }
        cluster.nodes[2].start()?;
        cluster.wait_in_sync(PATIENCE)?;
        let (code, report) = check(cluster, 0, &["--deep"])?;
        ensure!(code == 3, "{report}");
        let mut expected = NAMES.map(|(_, name)| (name, "corrupt"));
        expected.sort_unstable();
        demand(&report, &expected)?;
        let told = cluster.nodes[0].try_run(&["check", SHARE])?;
        let told = String::from_utf8(told.stdout)?;
        ensure!(
            !told.contains(['\u{1b}', '\u{202e}']),
            "a name reached the terminal raw: {told:?}"
        );
        let lines = told.lines().filter(|line| line.starts_with("corrupt at c: "));
        ensure!(lines.count() == NAMES.len(), "a name broke its line: {told}");
        let (code, report) = check(cluster, 0, &["--repair"])?;
        ensure!(code == 0, "{report}");
        ensure!(oracle::read_tree(&cluster.folder(2))? == before, "the repair is not what it was");
        Ok(())
    });
}
