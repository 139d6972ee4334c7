//! Nodes for tests, and a forwarder between them that can freeze and reset.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::wire::{Hello, PROTOCOL};
use highwater_core::{InstanceId, NodeId};
use highwater_net::{Identity, Link, Net, NetConfig, NetEvent, PeerAddress, WarningKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// No step of a test takes longer unless it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A key and a place to keep it.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("temporary directory"));
        Identity::create(home.0.path()).expect("identity");
        home
    }

    pub(crate) fn id(&self) -> NodeId {
        self.identity().node_id()
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::load(self.0.path()).expect("identity")
    }

    pub(crate) async fn start(&self, instance: u8, peers: Vec<PeerAddress>) -> Node {
        let hello = Hello {
            protocol: PROTOCOL,
            version: "1.2.3".to_owned(),
            name: format!("node {instance}"),
            user: "alice".to_owned(),
            instance: InstanceId([instance; 16]),
        };
        let listen = "127.0.0.1:0".parse().expect("address");
        let config = NetConfig { listen, hello, began: Instant::now() };
        let started = Net::start(config, self.identity(), peers).await;
        let (net, events) = started.expect("start");
        Node { net, events }
    }
}

pub(crate) struct Node {
    pub(crate) net: Net,
    pub(crate) events: mpsc::Receiver<NetEvent>,
}

impl Node {
    /// The next link, whatever warnings come before it.
    pub(crate) async fn link(&mut self) -> Link {
        within(async {
            loop {
                if let NetEvent::LinkUp(link) = self.event().await {
                    return link;
                }
            }
        })
        .await
    }

    /// The next warning of this kind, whatever else comes before it.
    pub(crate) async fn warning(&mut self, wanted: WarningKind) -> String {
        within(async {
            loop {
                match self.event().await {
                    NetEvent::Warning { kind, message, .. } if kind == wanted => return message,
                    NetEvent::Warning { .. } | NetEvent::LinkUp(_) => {}
                }
            }
        })
        .await
    }

    pub(crate) async fn event(&mut self) -> NetEvent {
        within(self.events.recv()).await.expect("the net runs")
    }
}

pub(crate) fn at(id: NodeId, addr: SocketAddr) -> PeerAddress {
    PeerAddress { id, addr: Some(addr.to_string()) }
}

pub(crate) fn waited_for(id: NodeId) -> PeerAddress {
    PeerAddress { id, addr: None }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Two nodes, the first of which dials.
pub(crate) async fn pair() -> (Node, Node) {
    let (a, b) = (Home::new(), Home::new());
    let b_node = b.start(2, vec![waited_for(a.id())]).await;
    let a_node = a.start(1, vec![at(b.id(), b_node.net.local_addr())]).await;
    (a_node, b_node)
}

/// What the forwarder does with bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Flow,
    /// Nothing passes, nothing is closed: what is on its way then, and all later, waits for ever.
    /// Connections that are made from then on flow.
    FreezeOld,
    /// As `FreezeOld`, and what is made from then on waits as well, until the mode changes.
    FreezeAll,
    /// Every connection is reset. Those that are made from then on flow.
    Reset,
}

/// A TCP forwarder to one address.
pub(crate) struct Forwarder {
    pub(crate) addr: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    _task: JoinSet<()>,
}

impl Forwarder {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let addr = listener.local_addr().expect("address");
        let mode = Arc::new(watch::Sender::new(Mode::Flow));
        let modes = mode.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let mut mode = modes.subscribe();
                carried.spawn(async move {
                    let opened = mode.wait_for(|mode| *mode != Mode::FreezeAll).await;
                    opened.expect("the forwarder lives");
                    let onward = TcpStream::connect(target).await.expect("target");
                    carry(tcp, onward, mode).await;
                });
            }
        });
        Self { addr, mode, _task: task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn carry(mut a: TcpStream, mut b: TcpStream, mut mode: watch::Receiver<Mode>) {
    let flow = async {
        let (mut from_a, mut to_a) = a.split();
        let (mut from_b, mut to_b) = b.split();
        tokio::select! {
            () = pump(&mut from_a, &mut to_b) => {}
            () = pump(&mut from_b, &mut to_a) => {}
        }
    };
    tokio::select! {
        () = flow => return,
        _ = mode.changed() => {}
    }
    match *mode.borrow() {
        Mode::Reset => {
            for tcp in [&a, &b] {
                tcp.set_zero_linger().expect("linger");
            }
            return;
        }
        Mode::Flow | Mode::FreezeOld | Mode::FreezeAll => {}
    }
    std::future::pending::<()>().await;
}

async fn pump(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
