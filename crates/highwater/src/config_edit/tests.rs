//! Edits that keep what a person wrote.

use super::*;

struct Scratch {
    dir: tempfile::TempDir,
    home: Home,
}

const OWN: NodeId = NodeId::from_bytes([1; 32]);
const PEER: NodeId = NodeId::from_bytes([2; 32]);

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().expect("scratch");
    let home = Home::at(dir.path().join("home"));
    home.create().expect("home");
    let node = NodeConfig { name: "a".into(), user: "u".into() };
    let listen = ListenConfig { sync: config::SYNC_ADDR_DEFAULT, http: config::HTTP_ADDR_DEFAULT };
    create(&home, &node, &listen).expect("created");
    Scratch { dir, home }
}

impl Scratch {
    fn edit(&self) -> ConfigEdit {
        ConfigEdit::begin(&self.home, OWN).expect("begun")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.home.config_path()).expect("read")
    }

    fn add_docs(&self) {
        let mut edit = self.edit();
        let path = self.dir.path().join("docs");
        edit.add_share(&name("docs"), &path, ShareMode::SendReceive).expect("added");
        edit.commit().expect("committed");
    }
}

fn name(text: &str) -> ShareName {
    text.parse().expect("name")
}

fn change(shares: &[&str]) -> PeerChange {
    let shares = shares.iter().map(|s| name(s)).collect();
    PeerChange { id: PEER, name: None, addr: None, shares }
}

#[test]
fn comments_survive_an_edit() {
    let scratch = scratch();
    let text = scratch.text() + "\n# mine alone\n";
    fs::write(scratch.home.config_path(), &text).expect("written");
    scratch.add_docs();
    assert!(scratch.text().contains("# mine alone"), "{}", scratch.text());
    assert!(scratch.dir.path().join("docs").is_dir());
}

#[test]
fn a_node_is_never_initialised_twice() {
    let scratch = scratch();
    let node = NodeConfig { name: "b".into(), user: "u".into() };
    let listen = ListenConfig { sync: config::SYNC_ADDR_DEFAULT, http: config::HTTP_ADDR_DEFAULT };
    let before = scratch.text();
    assert!(matches!(create(&scratch.home, &node, &listen), Err(EditError::Exists(_))));
    assert_eq!(scratch.text(), before);
}

#[test]
fn directories_that_must_not_be_shared_are_refused_and_not_made() {
    let scratch = scratch();
    scratch.add_docs();
    let base = scratch.dir.path();
    let file = base.join("file");
    fs::write(&file, "").expect("file");
    std::os::unix::fs::symlink(scratch.home.dir(), base.join("link")).expect("link");
    let rows = [
        (PathBuf::from("/"), "root of the file system"),
        (PathBuf::from("/proc/self"), "kernel"),
        (scratch.home.dir().join("store"), "home"),
        (base.to_owned(), "home"),
        (base.join("link/inside"), "home"),
        (base.join("docs/inside"), "share docs"),
        (base.join("none/inside"), "parent"),
        (file, "not a directory"),
    ];
    for (path, reason) in rows {
        let mut edit = scratch.edit();
        let refused = edit
            .add_share(&name("other"), &path, ShareMode::SendReceive)
            .expect_err("refused")
            .to_string();
        assert!(refused.contains(reason), "{}: {refused}", path.display());
    }
    assert!(!base.join("docs/inside").exists());
}

#[test]
fn removing_a_share_takes_it_from_every_peer_and_touches_no_file() {
    let scratch = scratch();
    scratch.add_docs();
    let mut edit = scratch.edit();
    edit.add_peer(&change(&["docs"])).expect("added");
    edit.commit().expect("committed");
    let mut edit = scratch.edit();
    edit.remove_share(&name("docs")).expect("removed");
    let config = edit.commit().expect("valid");
    assert!(config.shares.is_empty() && config.peers[0].shares.is_empty());
    assert!(scratch.dir.path().join("docs").is_dir());
}

#[test]
fn adding_a_known_peer_adds_what_is_new_about_it() {
    let scratch = scratch();
    scratch.add_docs();
    let mut edit = scratch.edit();
    edit.add_peer(&PeerChange { name: Some("bob".into()), ..change(&[]) }).expect("added");
    edit.commit().expect("committed");
    for _ in 0..2 {
        let mut edit = scratch.edit();
        let addr = Some("192.0.2.7:7420".to_owned());
        edit.add_peer(&PeerChange { addr, ..change(&["docs"]) }).expect("added");
        edit.commit().expect("committed");
    }
    let config = scratch.edit().config.clone();
    assert_eq!(config.peers.len(), 1);
    assert_eq!(config.peers[0].name, "bob");
    assert_eq!(config.peers[0].addr.as_deref(), Some("192.0.2.7:7420"));
    assert_eq!(config.peers[0].shares, [name("docs")]);
}

#[test]
fn a_peer_is_another_node_with_known_shares_and_an_address() {
    let scratch = scratch();
    let own = PeerChange { id: OWN, ..change(&[]) };
    assert!(matches!(scratch.edit().add_peer(&own), Err(EditError::OwnId(_))));
    assert!(matches!(scratch.edit().add_peer(&change(&["x"])), Err(EditError::NoShare(_))));
    let nowhere = PeerChange { addr: Some("nowhere".into()), ..change(&[]) };
    assert!(matches!(scratch.edit().add_peer(&nowhere), Err(EditError::Addr(_))));
    assert!(matches!(scratch.edit().remove_peer(PEER), Err(EditError::NoPeer(_))));
}

#[test]
fn a_paused_share_stays_paused_until_resumed() {
    let scratch = scratch();
    scratch.add_docs();
    for paused in [true, false] {
        let mut edit = scratch.edit();
        edit.set_paused(&name("docs"), paused).expect("set");
        assert_eq!(edit.commit().expect("committed").shares[0].paused, paused);
    }
}

#[test]
fn a_change_that_would_not_be_valid_leaves_the_file_alone() {
    let scratch = scratch();
    let before = scratch.text();
    let mut edit = scratch.edit();
    edit.add_peer(&PeerChange { name: Some("x".repeat(65)), ..change(&[]) }).expect("made");
    assert!(edit.commit().is_err());
    assert_eq!(scratch.text(), before);
}

#[test]
fn a_configuration_that_is_a_link_stays_one() {
    let scratch = scratch();
    let elsewhere = scratch.dir.path().join("dotfiles.toml");
    fs::rename(scratch.home.config_path(), &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, scratch.home.config_path()).expect("linked");
    scratch.add_docs();
    assert!(scratch.home.config_path().is_symlink());
    assert!(fs::read_to_string(elsewhere).expect("read").contains("docs"));
}
