//! Names and links in a log that lead elsewhere, or that cannot all stand: S33, S34, F2, and odd names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::hostile::frames::{Batch, Entry};
use highwater_lab::oracle;

use crate::log::{EPOCH, announce, epoch};
use crate::stage::{Effect, on_stage, until};

/// Each row: entries, and whether something may come to stand under a name in the share.
#[test]
fn a_link_is_never_followed_out_of_the_share() {
    on_stage(|stage| {
        let canary = stage.canary.to_str().context("not UTF-8")?.to_owned();
        let rows: Vec<(&str, Vec<Entry>)> = vec![
            (
                "S33 a link, then a child",
                vec![Entry::symlink("out", &canary), Entry::file("out/planted", b"")],
            ),
            (
                "S33 a child, then its parent as a link",
                vec![Entry::file("late/planted", b""), Entry::symlink("late", &canary)],
            ),
            (
                "S33 a link up, then a child",
                vec![
                    Entry::symlink("up", "../../canary"),
                    Entry::file("up/planted", b""),
                    Entry::tombstone("up/song"),
                    Entry::directory("up/dir"),
                ],
            ),
            (
                "S33 a link behind a link",
                vec![
                    Entry::directory("chain"),
                    Entry::symlink("chain/one", "two"),
                    Entry::symlink("chain/two", &canary),
                    Entry::file("chain/one/planted", b""),
                ],
            ),
            (
                "S33 a directory becomes a link",
                vec![
                    Entry::symlink("dir", &canary).version(&[(1, 1)]),
                    Entry::tombstone("dir/song"),
                    Entry::file("dir/planted", b""),
                ],
            ),
            (
                "S33 a link to the root of all",
                vec![Entry::symlink("root", "/"), Entry::file("root/tmp/planted", b"")],
            ),
            (
                "S33 a link to the node's own home",
                vec![
                    Entry::symlink("home", "../home"),
                    Entry::file("home/config.toml", b""),
                    Entry::tombstone("home/identity/key.pem"),
                ],
            ),
        ];
        let home = stage.victim().home();
        let config = fs::read(home.join("config.toml"))?;
        for (number, (what, entries)) in rows.into_iter().enumerate() {
            stage.attack(what, Effect::Entries, |stage| {
                let (mut peer, _) = announce(stage, epoch(number as u8), &entries)?;
                stage.settled()?;
                peer.is_up(3)
            })?;
        }
        ensure!(fs::read(home.join("config.toml"))? == config, "the configuration was written");
        ensure!(home.join("identity/key.pem").exists(), "the key was deleted");
        Ok(())
    });
}

/// The user of the victim, or another program, swaps a directory for a link while entries come.
#[test]
fn a_link_that_is_swapped_in_while_entries_come_is_not_followed_either() {
    on_stage(|stage| {
        let folder = stage.cluster.folder(0);
        let canary = stage.canary.clone();
        stage.attack("S33 F2 a race for a directory", Effect::Entries, |stage| {
            let entries: Vec<Entry> =
                (0..400).map(|n| Entry::file(&format!("race/planted-{n}"), b"")).collect();
            let (mut peer, _) = stage.sharing(epoch(1), 4000)?;
            let (dir, link) = (folder.join("race"), folder.join("race.link"));
            fs::create_dir(&dir)?;
            symlink(&canary, &link)?;
            let mut swaps = 0_u32;
            for round in 0..10 {
                let batch = Batch::of(SHARE, epoch(1), round * 400, &entries);
                peer.control.say(&Batch { head: 4000, ..batch }.frame())?;
                for _ in 0..1000 {
                    swap(&dir, &link)?;
                    swaps += 1;
                }
            }
            fs::remove_file(if dir.is_symlink() { &dir } else { &link })?;
            ensure!(swaps == 10_000);
            stage.settled()
        })
    });
}

fn swap(a: &PathBuf, b: &PathBuf) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[test]
fn one_name_for_a_file_and_a_directory_leaves_one_of_them_and_no_part() {
    let rows: [(&str, Vec<Entry>); 4] = [
        (
            "S34 a file and its child",
            vec![Entry::file("both", b""), Entry::file("both/child", b"")],
        ),
        (
            "S34 a child and its parent as a file",
            vec![Entry::file("late-file/child", b""), Entry::file("late-file", b"")],
        ),
        (
            "S34 a file, a directory and a link",
            vec![
                Entry::file("three", b""),
                Entry::directory("three").version(&[(2, 1)]),
                Entry::symlink("three", "x").version(&[(3, 1)]),
            ],
        ),
        (
            "S34 the victim's file as a directory",
            vec![Entry::directory("kept.txt"), Entry::file("kept.txt/child", b"")],
        ),
    ];
    on_stage(|stage| {
        for (number, (what, entries)) in rows.into_iter().enumerate() {
            stage.attack(what, Effect::Entries, |stage| {
                let (mut peer, _) = announce(stage, epoch(number as u8), &entries)?;
                stage.settled()?;
                peer.is_up(3)
            })?;
        }
        let tree = oracle::read_tree(&stage.cluster.folder(0))?;
        let kept = blake3::hash(b"what the victim holds").to_hex().to_string();
        let holds = |found: &oracle::Found| matches!(found, oracle::Found::File { hash, .. } if *hash == kept);
        ensure!(tree.values().any(holds), "the victim's file is lost: {tree:#?}");
        Ok(())
    });
}

#[test]
fn odd_names_stay_names() {
    let names =
        ["C:\\x", "a\\..\\b", "two\nlines", "\u{1b}[31mred", "-rf", "*", "...", "\u{202e}x", " "];
    on_stage(|stage| {
        stage.attack("S32 F9 odd names", Effect::Entries, |stage| {
            let entries: Vec<Entry> = names.iter().map(|name| Entry::file(name, b"")).collect();
            let (_peer, _) = announce(stage, EPOCH, &entries)?;
            let folder = stage.cluster.folder(1);
            until("the honest peer has them all", || {
                Ok(names.iter().all(|name| folder.join(name).is_file()))
            })
        })?;
        let shown = stage.victim().run(&["log", SHARE])?;
        ensure!(!shown.contains('\u{1b}'), "L3 colours on standard output: {shown:?}");
        let log = fs::read(stage.victim().log_path())?;
        ensure!(!log.contains(&0x1b), "L3 colours in the log");
        Ok(())
    });
}
