//! Lines that fall silent, break and come back, played by a forwarder between two nets.

mod common;

use common::{Forwarder, Home, Mode, Node, at, waited_for, within};
use highwater_core::ShareName;
use highwater_core::wire::{Control, Goodbye};
use highwater_net::{DownReason, Link, NetEvent};

/// Two nodes with a forwarder on the way, linked.
struct Line {
    a: Node,
    b: Node,
    forwarder: Forwarder,
    at_a: Link,
    at_b: Link,
}

impl Line {
    async fn new() -> Self {
        let (a_home, b_home) = (Home::new(), Home::new());
        let mut b = b_home.start(2, vec![waited_for(a_home.id())]).await;
        let forwarder = Forwarder::to(b.net.local_addr()).await;
        let mut a = a_home.start(1, vec![at(b_home.id(), forwarder.addr)]).await;
        let (at_a, at_b) = (a.link().await, b.link().await);
        Self { a, b, forwarder, at_a, at_b }
    }

    /// Waits for a new link at both ends and sends a message over it.
    async fn check_linked_again(&mut self) {
        let at_a = self.a.link().await;
        let mut at_b = self.b.link().await;
        let name: ShareName = "again".parse().expect("share name");
        at_a.control.send(Control::Withdraw(name.clone())).await.expect("send");
        assert_eq!(within(at_b.control_in.recv()).await, Some(Control::Withdraw(name)));
    }

    fn attempts(&self) -> u64 {
        self.a.net.peer_states().values().map(|state| state.dial_attempts).sum()
    }
}

#[tokio::test]
async fn a_link_that_falls_silent_is_replaced_by_a_new_one() {
    let mut line = Line::new().await;
    line.forwarder.set(Mode::FreezeOld);
    line.check_linked_again().await;
    let reason = within(line.at_a.handle.closed()).await;
    assert_eq!(reason, DownReason::Closed(Goodbye::Replaced));
    within(line.at_b.handle.closed()).await;
}

#[tokio::test]
async fn a_link_that_is_reset_is_noticed_and_replaced() {
    let mut line = Line::new().await;
    line.forwarder.set(Mode::Reset);
    let reason = within(line.at_a.handle.closed()).await;
    assert!(matches!(reason, DownReason::Broken(_)), "{reason:?}");
    let reason = within(line.at_b.handle.closed()).await;
    assert!(matches!(reason, DownReason::Broken(_)), "{reason:?}");
    line.check_linked_again().await;
}

#[tokio::test]
async fn attempts_into_a_silent_line_overlap_and_the_first_that_gets_through_wins() {
    let mut line = Line::new().await;
    let before = line.attempts();
    line.forwarder.set(Mode::FreezeAll);
    within(async {
        while line.attempts() < before + 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    line.forwarder.set(Mode::Flow);
    line.check_linked_again().await;
}

#[tokio::test]
async fn a_link_whose_peer_is_gone_without_a_word_is_given_up() {
    let mut line = Line::new().await;
    line.forwarder.set(Mode::FreezeAll);
    let reason = within(line.at_b.handle.closed()).await;
    assert_eq!(reason, DownReason::Silent);
    assert_eq!(within(line.at_b.control_in.recv()).await, None);
    let reason = within(line.at_a.handle.closed()).await;
    assert_eq!(reason, DownReason::Silent);
}

/// The line fell silent with the old process at its end, so nothing tells that it is gone.
#[tokio::test]
async fn a_peer_that_was_restarted_behind_a_silent_line_is_not_taken_for_a_clone() {
    let (a_home, b_home) = (Home::new(), Home::new());
    let mut b = b_home.start(2, vec![waited_for(a_home.id())]).await;
    let forwarder = Forwarder::to(b.net.local_addr()).await;
    let peers = vec![at(b_home.id(), forwarder.addr)];
    let mut a = a_home.start(1, peers.clone()).await;
    a.link().await;
    let old = b.link().await;
    forwarder.set(Mode::FreezeOld);
    drop(a);
    let mut a = a_home.start(11, peers).await;
    a.link().await;
    let event = b.event().await;
    assert!(matches!(event, NetEvent::LinkUp(_)), "{event:?}");
    within(old.handle.closed()).await;
}
