//! Two whole nets on loopback: who may link, which link stays, what passes over it.

mod common;

use bytes::Bytes;
use common::{Home, Node, at, pair, waited_for, within};
use highwater_core::wire::{Ask, Content, Control, Goodbye, Reply, RequestId};
use highwater_core::{ContentHash, ShareName};
use highwater_net::{DownReason, Link, NetEvent, WarningKind};

fn share(name: &str) -> ShareName {
    name.parse().expect("share name")
}

fn request(id: u64) -> Content {
    let ask = Ask::Manifest(ContentHash::of(b"content"));
    Content::Request { id: RequestId(id), share: share("docs"), ask }
}

/// A message each way on each stream.
async fn check_talk(a: &mut Link, b: &mut Link) {
    talk_one_way(a, b).await;
    talk_one_way(b, a).await;
}

async fn talk_one_way(from: &mut Link, to: &mut Link) {
    let withdraw = Control::Withdraw(share("docs"));
    from.control.send(withdraw.clone()).await.expect("send control");
    from.content.send(request(7)).await.expect("send content");
    assert_eq!(within(to.control_in.recv()).await, Some(withdraw));
    assert_eq!(within(to.content_in.recv()).await, Some(request(7)));
}

async fn linked(a: &mut Node, b: &mut Node) -> (Link, Link) {
    let link = a.link().await;
    (link, b.link().await)
}

#[tokio::test]
async fn one_link_carries_both_streams_both_ways_whoever_dialled() {
    let (mut a, mut b) = pair().await;
    let (mut at_a, mut at_b) = linked(&mut a, &mut b).await;
    assert!(at_a.dialled && !at_b.dialled);
    assert_eq!(at_b.hello.name, "node 1");
    assert_eq!(at_a.hello.name, "node 2");
    check_talk(&mut at_a, &mut at_b).await;
    assert!(at_a.handle.stats().bytes_in > 0);
}

#[tokio::test]
async fn a_stranger_never_links_and_both_sides_are_told() {
    let (a, b, friend) = (Home::new(), Home::new(), Home::new());
    let mut b_node = b.start(2, vec![waited_for(friend.id())]).await;
    let mut a_node = a.start(1, vec![at(b.id(), b_node.net.local_addr())]).await;
    let told = b_node.warning(WarningKind::Stranger).await;
    assert!(told.contains(&a.id().to_string()), "{told}");
    let told = a_node.warning(WarningKind::Refused).await;
    assert!(told.contains("peer add"), "{told}");
    assert!(!a_node.net.peer_states()[&b.id()].connected);
}

#[tokio::test]
async fn another_node_at_the_address_is_not_taken_for_the_peer() {
    let (a, b, other) = (Home::new(), Home::new(), Home::new());
    let other_node = other.start(3, vec![waited_for(a.id())]).await;
    let mut a_node = a.start(1, vec![at(b.id(), other_node.net.local_addr())]).await;
    let told = a_node.warning(WarningKind::WrongIdentity).await;
    assert!(told.contains(&other.id().to_string()), "{told}");
}

#[tokio::test]
async fn a_peer_that_is_added_links_at_once_and_one_that_is_removed_is_let_go() {
    let (a, b) = (Home::new(), Home::new());
    let mut b_node = b.start(2, vec![]).await;
    let mut a_node = a.start(1, vec![at(b.id(), b_node.net.local_addr())]).await;
    a_node.warning(WarningKind::Refused).await;
    b_node.net.set_peers(vec![waited_for(a.id())]);
    let (at_a, mut at_b) = linked(&mut a_node, &mut b_node).await;
    b_node.net.set_peers(vec![]);
    let reason = within(at_a.handle.closed()).await;
    assert_eq!(reason, DownReason::ClosedByPeer(Goodbye::NotAPeer));
    assert_eq!(within(at_b.control_in.recv()).await, None);
    assert_eq!(within(at_b.content_in.recv()).await, None);
}

#[tokio::test]
async fn when_both_dial_one_link_is_left_and_both_agree_which() {
    for _ in 0..10 {
        let (a, b) = (Home::new(), Home::new());
        let mut a_node = a.start(1, vec![]).await;
        let mut b_node = b.start(2, vec![]).await;
        let (a_addr, b_addr) = (a_node.net.local_addr(), b_node.net.local_addr());
        a_node.net.set_peers(vec![at(b.id(), b_addr)]);
        b_node.net.set_peers(vec![at(a.id(), a_addr)]);
        let (mut at_a, mut at_b) = linked(&mut a_node, &mut b_node).await;
        within(settle(&mut a_node, &mut at_a, &mut b_node, &mut at_b)).await;
        check_talk(&mut at_a, &mut at_b).await;
    }
}

/// Follows both nodes until they hold the two ends of one link: until a message of one arrives at
/// the other.
async fn settle(a: &mut Node, at_a: &mut Link, b: &mut Node, at_b: &mut Link) {
    loop {
        let token = Control::Withdraw(share("token"));
        let sent = at_a.dialled != at_b.dialled && at_a.control.send(token.clone()).await.is_ok();
        tokio::select! {
            event = a.event() => if let NetEvent::LinkUp(link) = event { *at_a = link },
            event = b.event() => if let NetEvent::LinkUp(link) = event { *at_b = link },
            got = at_b.control_in.recv(), if sent => if got == Some(token) { return },
        }
    }
}

#[tokio::test]
async fn a_daemon_that_was_restarted_replaces_its_old_link() {
    let (a, b) = (Home::new(), Home::new());
    let mut b_node = b.start(2, vec![waited_for(a.id())]).await;
    let peers = vec![at(b.id(), b_node.net.local_addr())];
    let mut a_node = a.start(1, peers.clone()).await;
    let (_, old) = linked(&mut a_node, &mut b_node).await;
    drop(a_node);
    let mut a_node = a.start(11, peers).await;
    let (mut at_a, mut at_b) = linked(&mut a_node, &mut b_node).await;
    within(old.handle.closed()).await;
    check_talk(&mut at_a, &mut at_b).await;
}

#[tokio::test]
async fn a_cloned_identity_is_refused_and_both_sides_are_told() {
    let (a, b) = (Home::new(), Home::new());
    let mut b_node = b.start(2, vec![waited_for(a.id())]).await;
    let peers = vec![at(b.id(), b_node.net.local_addr())];
    let mut a_node = a.start(1, peers.clone()).await;
    let (mut at_a, mut at_b) = linked(&mut a_node, &mut b_node).await;
    let mut clone = a.start(11, peers).await;
    let told = b_node.warning(WarningKind::IdentityInUse).await;
    assert!(told.contains(&a.id().to_string()), "{told}");
    clone.warning(WarningKind::IdentityInUse).await;
    check_talk(&mut at_a, &mut at_b).await;
}

#[tokio::test]
async fn shutting_down_says_so_to_the_peer_and_ends() {
    let (mut a, mut b) = pair().await;
    let (at_a, _at_b) = linked(&mut a, &mut b).await;
    within(b.net.shutdown(common::PATIENCE)).await;
    let reason = within(at_a.handle.closed()).await;
    assert_eq!(reason, DownReason::ClosedByPeer(Goodbye::Stopping));
}

#[tokio::test]
async fn control_passes_while_content_fills_its_queues() {
    const MESSAGES: u64 = 256;
    let (mut a, mut b) = pair().await;
    let (at_a, mut at_b) = linked(&mut a, &mut b).await;
    let data = Bytes::from(vec![7; 256 * 1024]);
    let content = at_a.content.clone();
    let bulk = tokio::spawn(async move {
        for id in 0..MESSAGES {
            let reply = Reply::Bytes(data.clone());
            content.send(Content::Reply { id: RequestId(id), reply }).await.expect("send");
        }
    });
    // Nobody takes the content yet: every queue and window on its way fills.
    for round in 0..100 {
        let name = share(&format!("round-{round}"));
        at_a.control.send(Control::Withdraw(name.clone())).await.expect("send");
        assert_eq!(within(at_b.control_in.recv()).await, Some(Control::Withdraw(name)));
    }
    assert!(!bulk.is_finished(), "the queues hold 64 MiB: the test shows nothing");
    for id in 0..MESSAGES {
        let Some(Content::Reply { id: got, .. }) = within(at_b.content_in.recv()).await else {
            panic!("content ended at {id}");
        };
        assert_eq!(got, RequestId(id));
    }
    bulk.await.expect("sender");
}

#[tokio::test]
async fn a_message_that_breaks_the_protocol_ends_the_link_and_is_reported() {
    let (mut a, mut b) = pair().await;
    let (at_a, _at_b) = linked(&mut a, &mut b).await;
    let (offset, length) = (u64::MAX - 5, 10);
    let ask = Ask::Range { content: ContentHash::of(b""), offset, length };
    let request = Content::Request { id: RequestId(1), share: share("docs"), ask };
    at_a.content.send(request).await.expect("send");
    let told = b.warning(WarningKind::Misbehaved).await;
    assert!(told.contains("range.offset"), "{told}");
    let reason = within(at_a.handle.closed()).await;
    assert_eq!(reason, DownReason::ClosedByPeer(Goodbye::Misbehaved));
}
