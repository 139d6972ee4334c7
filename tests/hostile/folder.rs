//! Hostile folders on two real nodes: F1, F4, F5, F9, F10, F11, F20, F22, F25, F26, F29, as far as
//! the tests of `highwater-folder` and `tests/chaos` do not try them already.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::oracle;
use highwater_tests::with_cluster;

use crate::stage::{PATIENCE, until};

fn agreed(cluster: &Cluster) -> Result<oracle::Tree> {
    cluster.wait_agreed(PATIENCE)?;
    oracle::read_tree(&cluster.folder(1))
}

#[test]
fn links_of_every_kind_cross_as_text_and_lead_nowhere() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let folder = cluster.folder(0);
        let home = cluster.nodes[0].home().to_str().context("not UTF-8")?.to_owned();
        let targets = [
            "nowhere",
            "/etc/passwd",
            "../../..",
            ".",
            "loop",
            "/proc/self/mem",
            &home,
            "a/../../b",
        ];
        for (number, target) in targets.iter().enumerate() {
            symlink(target, folder.join(format!("link-{number}")))?;
        }
        symlink("loop", folder.join("loop"))?;
        for number in 0..50 {
            symlink(format!("chain-{}", number + 1), folder.join(format!("chain-{number}")))?;
        }
        cluster.start_all()?;
        let tree = agreed(cluster)?;
        ensure!(tree.len() == targets.len() + 51, "{} entries", tree.len());
        ensure!(tree.values().all(|found| matches!(found, oracle::Found::Symlink { .. })));
        Ok(())
    });
}

#[test]
fn a_hard_link_to_a_file_outside_takes_nothing_from_it() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let outside = cluster.dir().join("outside");
        fs::write(&outside, "not shared")?;
        fs::hard_link(&outside, cluster.folder(0).join("one"))?;
        fs::hard_link(&outside, cluster.folder(0).join("two"))?;
        cluster.start_all()?;
        agreed(cluster)?;
        fs::write(cluster.folder(1).join("one"), "edited at the other end")?;
        agreed(cluster)?;
        ensure!(fs::read(&outside)? == b"not shared", "the file outside was written to");
        ensure!(fs::read(cluster.folder(0).join("two"))? == b"not shared", "its other name too");
        ensure!(fs::read(cluster.folder(0).join("one"))? == b"edited at the other end");
        Ok(())
    });
}

#[test]
fn names_that_fold_into_one_another_stay_two_and_a_rename_of_case_loses_nothing() {
    let twins = [
        "A",
        "a",
        "\u{e9}",
        "e\u{301}",
        "\u{df}",
        "ss",
        "\u{130}",
        "i",
        "\u{fb01}",
        "fi",
        "a\u{200c}b",
        "ab",
    ];
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let folder = cluster.folder(0);
        for name in twins {
            fs::write(folder.join(name), name)?;
        }
        fs::create_dir(folder.join("Dir"))?;
        fs::write(folder.join("Dir/child"), "child")?;
        cluster.start_all()?;
        ensure!(agreed(cluster)?.len() == twins.len() + 2);
        fs::rename(folder.join("Dir"), folder.join("dir"))?;
        fs::rename(folder.join("ab"), folder.join("AB"))?;
        until("the renames have crossed", || Ok(cluster.folder(1).join("dir/child").exists()))?;
        let tree = agreed(cluster)?;
        ensure!(tree.contains_key(Path::new("AB")) && !tree.contains_key(Path::new("Dir")));
        ensure!(fs::read(cluster.folder(1).join("dir/child"))? == b"child");
        Ok(())
    });
}

/// Things that are not synced, and one file that is: it must not wait for them.
#[test]
fn what_cannot_be_synced_is_listed_and_holds_nothing_up() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let folder = cluster.folder(0);
        File::create(folder.join("vast"))?.set_len(9 << 40)?;
        File::create(folder.join("set-id"))?;
        fs::set_permissions(folder.join("set-id"), fs::Permissions::from_mode(0o6777))?;
        let mut deep = folder.clone();
        for _ in 0..400 {
            deep.push("d");
            // Beyond PATH_MAX nothing can be made this way; 800 bytes are far below it.
            fs::create_dir(&deep)?;
        }
        fs::write(deep.join("bottom"), "too deep")?;
        fs::write(folder.join("plain"), "as usual")?;
        cluster.start_all()?;
        until("the plain file has crossed", || Ok(cluster.folder(1).join("plain").exists()))?;
        cluster.nodes[1].wait_in_sync(PATIENCE)?;
        let status = cluster.nodes[0].status()?;
        let problems = &status.share(SHARE).context("no share")?.problems;
        let listed = |path: &str| problems.iter().any(|problem| problem.path.starts_with(path));
        ensure!(listed("vast"), "F5 the file of 9 TiB is not listed: {problems:?}");
        ensure!(listed("d/d/d"), "F11 the depth is not listed: {problems:?}");
        ensure!(!cluster.folder(1).join("vast").exists());
        let mode = fs::metadata(cluster.folder(1).join("set-id"))?.permissions().mode();
        ensure!(mode & 0o7000 == 0, "F20 {mode:o} has crossed");
        Ok(())
    });
}

#[test]
fn rules_that_come_later_delete_nothing_anywhere() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let folder = cluster.folder(0);
        for number in 0..20 {
            fs::write(folder.join(format!("{number}.log")), "kept")?;
        }
        fs::write(folder.join("kept.txt"), "kept")?;
        cluster.start_all()?;
        agreed(cluster)?;
        fs::write(folder.join(".highwaterignore"), "*.log\n/**/**/**/x\n!\n[\n")?;
        agreed_on_rules(cluster, "after")?;
        fs::remove_file(folder.join("0.log"))?;
        agreed_on_rules(cluster, "and later")?;
        let there =
            |node: usize| (1..20).all(|n| cluster.folder(node).join(format!("{n}.log")).exists());
        ensure!(there(0) && there(1), "F22 an ignored file was deleted");
        ensure!(
            cluster.folder(1).join("0.log").exists(),
            "F22 a delete of an ignored file crossed"
        );
        Ok(())
    });
}

fn agreed_on_rules(cluster: &Cluster, after: &str) -> Result<()> {
    until("the rules have crossed", || Ok(cluster.folder(1).join(".highwaterignore").exists()))?;
    fs::write(cluster.folder(0).join(after), "x")?;
    until("what came after has crossed", || Ok(cluster.folder(1).join(after).exists()))?;
    cluster.wait_in_sync(PATIENCE)
}

#[test]
fn three_thousand_names_with_one_beginning_cross() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        let prefix = "p".repeat(200);
        for number in 0..3_000 {
            // Only two contents: every other file is equal to 1,499 others, or empty like them.
            let content = ["", "one content for many"][number % 2];
            fs::write(cluster.folder(0).join(format!("{prefix}{number}")), content)?;
        }
        cluster.start_all()?;
        until("all have crossed", || Ok(fs::read_dir(cluster.folder(1))?.count() == 3_001))?;
        ensure!(agreed(cluster)?.len() == 3_000);
        Ok(())
    });
}
