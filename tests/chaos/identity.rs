//! Who may speak: strangers, half-listed peers, two daemons with one identity.

use std::fs;

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::SHARE;
use highwater_lab::faults::Direction;
use highwater_lab::net::free_loopback;
use highwater_lab::node::{Node, NodeSpec, clone_home};
use highwater_lab::status::Status;
use highwater_tests::with_cluster;

use crate::PATIENCE;

#[test]
fn a_stranger_gets_nothing_however_often_it_asks() {
    with_cluster(&["a", "b", "stranger"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("secret"), "for b alone")?;
        cluster.link(2, 0)?;
        let stranger = cluster.nodes[2].id().to_owned();
        cluster.nodes[0].run(&["peer", "remove", &stranger])?;
        cluster.start_all()?;
        cluster.nodes[1].wait_in_sync(PATIENCE)?;
        let proxy = cluster.proxy(2, 0);
        let tried = |_: &Status| proxy.report().connections_used() >= 3;
        cluster.nodes[2].wait_until("the stranger has tried", PATIENCE, tried)?;
        ensure!(!cluster.folder(2).join("secret").exists(), "a stranger got a file");
        let status = cluster.nodes[2].status()?;
        let connected = status.shares.iter().flat_map(|share| &share.peers).any(|p| p.connected);
        ensure!(!connected, "a stranger is connected");
        Ok(())
    });
}

#[test]
fn a_share_that_only_one_side_lists_is_not_exchanged() {
    with_cluster(&["a", "b"], &[], |cluster| {
        let (a, b) = (&cluster.nodes[0], &cluster.nodes[1]);
        for node in [a, b] {
            node.add_share("open")?;
        }
        a.add_peer(b.id(), None, &["open"])?;
        b.add_peer(a.id(), Some(a.spec().sync), &["open", SHARE])?;
        fs::write(a.folder(SHARE).join("secret"), "not listed for b")?;
        fs::write(a.folder("open").join("public"), "listed")?;
        let arrived = b.folder("open").join("public");
        cluster.start_all()?;
        cluster.nodes[1].wait_until("the listed share came", PATIENCE, |_| arrived.exists())?;
        ensure!(!cluster.folder(1).join("secret").exists(), "an unlisted share was exchanged");
        Ok(())
    });
}

#[test]
fn two_homes_with_one_identity_are_noticed_and_harm_nothing() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("kept"), "x")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let mut twin = twin_of(&cluster.nodes[1], &cluster.dir())?;
        twin.start()?;
        let noticed = |_: &Status| {
            [&cluster.nodes[0], &twin].iter().all(|node| {
                let log = fs::read_to_string(node.log_path()).unwrap_or_default();
                log.contains("identity")
            })
        };
        cluster.nodes[0].wait_until("both sides say so", PATIENCE, noticed)?;
        drop(twin);
        fs::write(cluster.folder(0).join("after"), "y")?;
        cluster.wait_agreed(PATIENCE)?;
        ensure!(fs::read_to_string(cluster.folder(1).join("kept"))? == "x");
        Ok(())
    });
}

/// A copy of a node's home, with addresses and a folder of its own, and the same key.
fn twin_of(node: &Node, parent: &std::path::Path) -> Result<Node> {
    let mut spec = NodeSpec::on_loopback(&node.spec().exe, "twin")?;
    spec.http = free_loopback()?;
    let twin = Node::init(spec, parent)?;
    fs::remove_dir_all(twin.home())?;
    clone_home(&node.home(), &twin.home())?;
    let folder = twin.folder(SHARE);
    fs::create_dir_all(&folder)?;
    clone_home(&node.folder(SHARE), &folder)?;
    let config = twin.home().join("config.toml");
    let replace = |text: String, from: String, to: String| text.replace(&from, &to);
    let mut text = fs::read_to_string(&config)?;
    text = replace(text, node.spec().sync.to_string(), twin.spec().sync.to_string());
    text = replace(text, node.spec().http.to_string(), twin.spec().http.to_string());
    let path = |node: &Node| node.folder(SHARE).to_str().map(str::to_owned).context("not UTF-8");
    text = replace(text, path(node)?, path(&twin)?);
    fs::write(&config, text)?;
    twin.with_identity_of(node)
}

#[test]
fn a_peer_that_is_removed_learns_nothing_more() {
    with_cluster(&["a", "b"], &[(1, 0)], |cluster| {
        fs::write(cluster.folder(0).join("before"), "x")?;
        cluster.start_all()?;
        cluster.wait_agreed(PATIENCE)?;
        let b = cluster.nodes[1].id().to_owned();
        cluster.nodes[0].run(&["peer", "remove", &b])?;
        let proxy = cluster.proxy(0, 1);
        let apart = |status: &Status| {
            status.shares.iter().flat_map(|share| &share.peers).all(|peer| !peer.connected)
        };
        cluster.nodes[1].wait_until("b is apart", PATIENCE, apart)?;
        fs::write(cluster.folder(0).join("after"), "y")?;
        let used = proxy.report().connections_used();
        let tried = |_: &Status| proxy.report().connections_used() >= used + 2;
        cluster.nodes[1].wait_until("b has tried again", PATIENCE, tried)?;
        ensure!(!cluster.folder(1).join("after").exists(), "a removed peer got a file");
        ensure!(proxy.report().bytes(Direction::Backward) > 0, "b was never connected");
        Ok(())
    });
}
