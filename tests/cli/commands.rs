//! Commands that need no daemon, and what the others say without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use highwater_lab::oracle;

use crate::{Home, Outcome, program};

/// The exit codes of the contract.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const WRONG_USE: i32 = 2;
const NO_DAEMON: i32 = 4;

#[test]
fn init_makes_a_home_once_and_id_prints_the_same_id() {
    let home = Home::initialised();
    let id = home.run(&["id"]).expect_code(DONE).stdout();
    assert_eq!(id.lines().count(), 1, "{id:?}");
    let before = fs::read(home.config()).expect("init writes a configuration");
    let again = home.run(&["init"]);
    again.expect_code(FAILED);
    assert!(again.stdout().is_empty(), "errors go to standard error");
    assert_eq!(fs::read(home.config()).expect("still there"), before, "init overwrote");
    assert_eq!(home.run(&["id"]).stdout(), id);
}

#[test]
fn init_prints_the_node_id() {
    let home = Home::new();
    let printed = home.run(&["init", "--name", "n"]).expect_code(DONE).stdout();
    let id = home.run(&["id"]).stdout();
    assert!(printed.contains(id.trim()), "{printed:?} lacks {id:?}");
}

#[test]
fn a_home_is_for_its_owner_alone() {
    let home = Home::initialised();
    let mode = fs::metadata(home.path()).expect("init made it").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

#[test]
fn json_output_is_one_document() {
    let home = Home::initialised();
    for args in [&["--json", "id"][..], &["--json", "share", "list"], &["--json", "peer", "list"]] {
        home.run(args).expect_code(DONE).json();
    }
}

#[test]
fn shares_are_added_listed_and_removed_and_their_files_stay() {
    let home = Home::initialised();
    let folder = home.dir.path().join("folder");
    fs::create_dir(&folder).expect("free");
    fs::write(folder.join("file"), "x").expect("writable");
    home.run_on(&["share", "add", "docs"], &folder).expect_code(DONE);
    assert!(home.run(&["share", "list"]).expect_code(DONE).stdout().contains("docs"));
    home.run_on(&["share", "add", "docs"], &folder).expect_code(FAILED);
    home.run(&["share", "remove", "docs"]).expect_code(DONE);
    assert!(!home.run(&["share", "list"]).expect_code(DONE).stdout().contains("docs"));
    let left = oracle::read_tree(&folder).expect("readable");
    assert_eq!(left.len(), 1, "remove touched the files: {left:?}");
    home.run(&["share", "remove", "docs"]).expect_code(FAILED);
}

#[test]
fn peers_are_added_listed_and_removed() {
    let (home, other) = (Home::initialised(), Home::initialised());
    let id = other.run(&["id"]).stdout().trim().to_owned();
    home.run(&["peer", "add", &id, "192.0.2.7:7420", "--name", "bob"]).expect_code(DONE);
    assert!(home.run(&["peer", "list"]).expect_code(DONE).stdout().contains("bob"));
    home.run(&["peer", "remove", &id]).expect_code(DONE);
    assert!(!home.run(&["peer", "list"]).expect_code(DONE).stdout().contains("bob"));
}

/// Each row: what is wrong with the use, and the words of it that the error must name.
#[test]
fn wrong_use_is_answered_with_two_and_names_the_culprit() {
    let rows: [(&[&str], &str); 5] = [
        (&["frobnicate"], "frobnicate"),
        (&["status", "--frob"], "--frob"),
        (&["share", "add", "docs"], "PATH"),
        (&["peer", "add", "not-a-node-id"], "not-a-node-id"),
        (&["share", "add", "../up", "/tmp"], "../up"),
    ];
    let home = Home::initialised();
    for (args, named) in rows {
        let outcome = home.run(args);
        outcome.expect_code(WRONG_USE);
        assert!(outcome.stderr().contains(named), "{args:?}: {}", outcome.stderr());
        assert!(outcome.stdout().is_empty(), "{args:?}: errors go to standard error");
    }
}

/// Each row: a line added to the configuration, and the words that the error must name.
#[test]
fn a_wrong_configuration_is_answered_with_two_and_names_key_and_line() {
    let rows = [
        ("[node]\nname = \"n\"\nuser = \"u\"\nfavourite = 1\n", "favourite", "4"),
        ("[node]\nname = 7\n", "name", "2"),
        ("[listen]\nsync = \"nowhere\"\n", "sync", "2"),
        ("[[share]]\nname = \"docs\"\npath = \"/tmp\"\nmode = \"sideways\"\n", "mode", "4"),
        ("[[share]]\nname = \"d\"\npath = \"/tmp\"\nrescan_interval = \"soon\"\n", "rescan", "4"),
    ];
    for (text, key, line) in rows {
        let home = Home::initialised();
        fs::write(home.config(), text).expect("writable");
        let outcome = home.run(&["run"]);
        outcome.expect_code(WRONG_USE);
        let said = outcome.stderr();
        assert!(said.contains(key) && said.contains(line), "{text:?}: {said}");
    }
}

#[test]
fn a_wrong_setting_in_the_environment_is_an_error_for_every_command() {
    let home = Home::initialised();
    // A home that was meant and misspelt would be another node.
    let settings =
        [("HIGHWATER_NODE_NAEM", "x"), ("HIGHWATER_HOEM", "/x"), ("HIGHWATER_LISTEN_HTTP", "abc")];
    for (name, value) in settings {
        for words in ["run", "init", "id", "status", "share list", "net", "cluster nodes"] {
            let mut command = home.command();
            let outcome = Outcome::of(command.env(name, value).args(words.split(' ')), words);
            outcome.expect_code(WRONG_USE);
            assert!(outcome.stderr().contains(name), "{words}: {}", outcome.stderr());
        }
    }
}

#[test]
fn commands_for_the_daemon_answer_four_without_one() {
    let home = Home::initialised();
    for args in [&["status"][..], &["transfers"], &["log", "docs"], &["cluster", "nodes"], &["net"]]
    {
        let outcome = home.run(args);
        outcome.expect_code(NO_DAEMON);
        assert!(outcome.stderr().contains("run"), "what to do next: {}", outcome.stderr());
    }
}

#[test]
fn commands_of_later_versions_say_so_and_make_nothing_up() {
    let home = Home::initialised();
    let later: [&[&str]; 2] = [&["invite", "docs"], &["join", "CODE", "/p"]];
    for args in later {
        let outcome = home.run(args);
        outcome.expect_code(FAILED);
        assert!(outcome.stderr().contains("not available"), "{args:?}: {}", outcome.stderr());
        assert!(outcome.stdout().is_empty(), "{args:?}");
    }
}

#[test]
fn tokens_are_made_shown_once_listed_and_revoked() {
    let home = Home::initialised();
    let made = home.run(&["token", "create", "--scope", "read", "--expires", "30d", "--json"]);
    let made = made.expect_code(0).json();
    let (id, token) = (made["id"].as_str().expect("an id"), made["token"].as_str().expect("one"));
    assert!(token.starts_with("hw_") && token.contains(id), "{made}");
    let plain = home.run(&["token", "create", "--scope", "admin"]);
    assert!(
        plain.expect_code(0).stdout().starts_with("hw_"),
        "the token alone: {}",
        plain.stdout()
    );
    let listed = home.run(&["token", "list", "--json"]).expect_code(0).json();
    let scopes: Vec<_> = listed["tokens"].as_array().expect("tokens").iter().collect();
    assert_eq!(
        (scopes[0]["scope"].as_str(), scopes[1]["scope"].as_str()),
        (Some("read"), Some("admin"))
    );
    assert!(!listed.to_string().contains(token), "what it is made of is not kept");
    home.run(&["token", "revoke", id]).expect_code(0);
    home.run(&["token", "revoke", id]).expect_code(FAILED);
    home.run(&["token", "create", "--scope", "all"]).expect_code(2);
    home.run(&["token", "create", "--scope", "read", "--expires", "soon"]).expect_code(2);
}

#[test]
fn hash_prints_the_plain_blake3_of_a_file() {
    let home = Home::new();
    let path = home.dir.path().join("file");
    fs::write(&path, "content").expect("writable");
    let tree = oracle::read_tree(home.dir.path()).expect("readable");
    let Some(oracle::Found::File { hash, .. }) = tree.values().next() else {
        panic!("the judge sees no file: {tree:?}");
    };
    let printed = home.run_on(&["hash"], &path).expect_code(DONE).stdout();
    assert!(printed.starts_with(hash.as_str()), "{printed:?}, not {hash}");
}

#[test]
fn completions_come_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Outcome::of(program().args(["completions", shell]), shell);
        assert!(outcome.expect_code(DONE).stdout().contains("highwater"));
    }
}

#[test]
fn a_command_on_no_home_says_what_to_do_next() {
    let home = Home::new();
    let outcome = home.run(&["id"]);
    assert_ne!(outcome.output.status.code(), Some(DONE));
    assert!(outcome.stderr().contains("init"), "{}", outcome.stderr());
}
