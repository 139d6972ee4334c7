//! Configuration and command line: C2-C10, C12, L1, L2, L6, L11, as far as `tests/cli` does not
//! try them already.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

use anyhow::{Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::node::{Node, NodeSpec};
use highwater_tests::{Slot, highwater};

use crate::stage::{PATIENCE, until};

fn node(dir: &tempfile::TempDir) -> Result<Node> {
    Node::init(NodeSpec::on_loopback(&highwater(), "n")?, dir.path())
}

fn run(node: &Node, args: &[OsString]) -> Result<Output> {
    let mut command = Command::new(&node.spec().exe);
    // What names the program to the tests is a key that it does not know.
    command.env_remove("HIGHWATER_EXE");
    command.arg("--home").arg(node.home()).args(args).stdin(Stdio::null());
    Ok(command.output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Each row: a configuration, and the word that the refusal must have.
#[test]
fn a_hostile_configuration_is_refused_in_one_plain_sentence() {
    let share = |rest: &str| format!("[[share]]\nname = \"d\"\npath = \"/tmp/x\"\n{rest}");
    let many = |count: usize| {
        (0..count).map(|n| format!("[[share]]\nname = \"s{n}\"\npath = \"/s/{n}\"\n")).collect()
    };
    let rows: Vec<(&str, String, &str)> = vec![
        ("C9 2 MiB", format!("#{}", "x".repeat(2 << 20)), "1048576"),
        ("C9 depth", format!("a = {}", "[".repeat(100_000)), "line 1"),
        ("C9 a key of a thousand dots", format!("{}a = 1", "a.".repeat(1000)), "recursion"),
        ("C12 a later version", "[storage]\nformat = 9\n".to_owned(), "storage"),
        ("C3 colours in a key", "\"\\u001b[31mx\" = 1\n".to_owned(), "line 1"),
        ("C3 a table twice", "[node]\n[node]\n".to_owned(), "node"),
        ("C4 a negative count", share("mass_delete_entries_min = -1"), "mass_delete_entries_min"),
        ("C4 a count of 2^64", share("mass_delete_entries_min = 18446744073709551616"), "line 4"),
        ("C4 infinity", share("mass_delete_fraction = inf"), "mass_delete_fraction"),
        ("C4 port 65536", "[listen]\nsync = \"127.0.0.1:65536\"\n".to_owned(), "sync"),
        ("C4 a year and a day", share("rescan_interval = \"366d\""), "rescan_interval"),
        (
            "C5 a share in a share",
            share("[[share]]\nname = \"e\"\npath = \"/tmp/x/y\"\n"),
            "one another",
        ),
        ("C5 a path upwards", "[[share]]\nname = \"d\"\npath = \"../x\"\n".to_owned(), "absolute"),
        ("C9 a NUL", "[node]\nname = \"a\0b\"\n".to_owned(), "line 2"),
    ];
    let test = || -> Result<()> {
        let dir = tempfile::tempdir()?;
        let node = node(&dir)?;
        for (what, config, word) in rows {
            fs::write(node.home().join("config.toml"), config)?;
            let outcome = run(&node, &["run".into()])?;
            let said = text(&outcome.stderr);
            ensure!(outcome.status.code() == Some(2), "{what}: {:?}: {said}", outcome.status);
            ensure!(said.contains(word), "{what}: {said}");
            ensure!(!said.contains("panicked") && !said.contains('\u{1b}'), "{what}: {said:?}");
            ensure!(said.len() < 2000, "{what}: {} bytes of refusal", said.len());
        }
        // Not UTF-8, and no file at all.
        fs::write(node.home().join("config.toml"), [0xff, 0xfe, b'a'])?;
        ensure!(run(&node, &["run".into()])?.status.code() == Some(2));
        fs::remove_file(node.home().join("config.toml"))?;
        fs::create_dir(node.home().join("config.toml"))?;
        ensure!(run(&node, &["run".into()])?.status.code().is_some_and(|code| code != 0));
        let crowd: String = many(500);
        fs::remove_dir(node.home().join("config.toml"))?;
        fs::write(node.home().join("config.toml"), crowd)?;
        ensure!(run(&node, &["share".into(), "list".into()])?.status.success(), "500 shares");
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn a_running_daemon_keeps_its_configuration_when_the_new_one_is_bad() {
    let test = || -> Result<()> {
        let _slot = Slot::take();
        let dir = tempfile::tempdir()?;
        let mut node = node(&dir)?;
        node.add_share(SHARE)?;
        node.start()?;
        let good = fs::read_to_string(node.home().join("config.toml"))?;
        fs::write(node.home().join("config.toml"), format!("{good}\nfavourite = 1\n"))?;
        node.signal(rustix::process::Signal::HUP)?;
        until("the daemon says what is wrong", || {
            Ok(fs::read_to_string(node.log_path())?.contains("favourite"))
        })?;
        let added = node.try_run(&["share", "add", "more", "/tmp"])?;
        ensure!(!added.status.success(), "C10 a bad file was edited");
        fs::write(node.folder(SHARE).join("still"), "served")?;
        node.wait_until("the share goes on", PATIENCE, |status| {
            status.share(SHARE).is_some_and(|share| share.entries == 1)
        })?;
        node.stop()
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}

/// Each row: arguments, the exit code, and whether it is a usage error that says so.
#[test]
fn odd_arguments_are_answered_in_order() {
    let os = |text: &str| OsString::from(text);
    let invalid = OsString::from_vec(vec![b'/', b't', 0xff, 0xfe]);
    let long = OsString::from("/".to_owned() + &"x".repeat(100_000));
    let rows: Vec<(&str, Vec<OsString>, &[i32])> = vec![
        ("L1 nothing", vec![], &[2]),
        ("L1 help", vec![os("--help")], &[0]),
        ("L1 an unknown flag", vec![os("--frob")], &[2]),
        ("L1 a flag twice", vec![os("--json"), os("--json"), os("id")], &[0, 2]),
        ("L1 a missing value", vec![os("share"), os("add")], &[2]),
        ("L1 an empty argument", vec![os("share"), os("add"), os(""), os("/tmp")], &[2]),
        ("L2 a path that begins with a dash", vec![os("hash"), os("--"), os("-rf")], &[1]),
        ("L2 a path of two lines", vec![os("hash"), os("a\nb")], &[1]),
        ("L2 a path that is not UTF-8", vec![os("hash"), invalid.clone()], &[1, 2]),
        ("L2 a share that is not UTF-8", vec![os("share"), os("add"), os("s"), invalid], &[1, 2]),
        ("L2 a path of 100,000 bytes", vec![os("hash"), long], &[1]),
        ("L2 colours in a path", vec![os("hash"), os("\u{1b}[31mred")], &[1]),
        ("L6 a port of nobody", vec![os("status")], &[4]),
    ];
    let test = || -> Result<()> {
        let dir = tempfile::tempdir()?;
        let node = node(&dir)?;
        for (what, args, codes) in rows {
            let outcome = run(&node, &args)?;
            let said = text(&outcome.stderr);
            let code = outcome.status.code();
            ensure!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:?}: {said}");
            ensure!(!said.contains("panicked"), "{what}: {said}");
            ensure!(!said.contains('\u{1b}'), "{what}: colours are passed on: {said:?}");
            ensure!(
                code == Some(0) || !(said + &text(&outcome.stdout)).is_empty(),
                "{what}: silence"
            );
        }
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn secrets_are_for_their_owner_whatever_the_umask_and_homes_of_others_are_refused() {
    let test = || -> Result<()> {
        let dir = tempfile::tempdir()?;
        let exe = highwater();
        let home = dir.path().join("home");
        let script =
            format!("umask 000; '{}' --home '{}' init --name n", exe.display(), home.display());
        let made = Command::new("sh").args(["-c", &script]).output()?;
        ensure!(made.status.success(), "{}", text(&made.stderr));
        for (path, mode) in [(home.clone(), 0o700), (home.join("identity/key.pem"), 0o600)] {
            let found = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(found == mode, "L11 {}: {found:o}", path.display());
        }
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real)?;
        symlink(&real, &link)?;
        let share = |name: &str, path: &std::path::Path| {
            Command::new(&exe)
                .arg("--home")
                .arg(&home)
                .args(["share", "add", name])
                .arg(path)
                .output()
        };
        ensure!(share("a", &real)?.status.success());
        for (what, path) in [
            ("C5 the same by a link", link),
            ("C5 the home", home.clone()),
            ("C5 inside the home", home.join("identity")),
            ("C5 around the home", dir.path().to_owned()),
            ("C5 all there is", "/".into()),
        ] {
            let added = share("b", &path)?;
            ensure!(!added.status.success(), "{what} was shared");
        }
        Ok(())
    };
    test().unwrap_or_else(|error| panic!("{error:?}"));
}
