//! This project's own program as a contender. The sink dials the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arena::{Arena, End};
use super::contender::Contender;
use crate::cluster::SHARE;
use crate::net::free_loopback;
use crate::node::{Node, NodeSpec};
use crate::status::Status;

/// Longest wait to be in sync.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Ours {
    dir: PathBuf,
    /// The source and the sink.
    nodes: [Node; 2],
}

impl Ours {
    pub(crate) fn new(exe: &Path, arena: &Arena, dir: &Path) -> Result<Ours> {
        let make = |end: End| -> Result<Node> {
            let spec = NodeSpec {
                exe: exe.to_owned(),
                name: end.name().to_owned(),
                user: end.name().to_owned(),
                place: arena.place(end),
                sync: arena.service(end)?,
                http: free_loopback()?,
            };
            let node = Node::init(spec, dir)?;
            node.add_share(SHARE)?;
            Ok(node)
        };
        let (source, sink) = (make(End::Source)?, make(End::Sink)?);
        source.add_peer(sink.id(), None, &[SHARE])?;
        sink.add_peer(source.id(), Some(source.spec().sync), &[SHARE])?;
        fs::create_dir_all(dir.join("workshop"))?;
        Ok(Ours { dir: dir.to_owned(), nodes: [source, sink] })
    }

    fn node(&mut self, end: End) -> &mut Node {
        match end {
            End::Source => &mut self.nodes[0],
            End::Sink => &mut self.nodes[1],
        }
    }
}

impl Contender for Ours {
    fn start(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start)?;
        self.settle()
    }

    fn folder(&self, end: End) -> PathBuf {
        match end {
            End::Source => self.nodes[0].folder(SHARE),
            End::Sink => self.nodes[1].folder(SHARE),
        }
    }

    fn workshop(&self) -> PathBuf {
        self.dir.join("workshop")
    }

    fn nudge(&mut self) -> Result<()> {
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.wait_in_sync(PATIENCE).map(drop))
    }

    fn kill(&mut self, end: End) -> Result<()> {
        self.node(end).kill()
    }

    fn restart(&mut self, end: End) -> Result<()> {
        self.node(end).start()
    }

    fn time_to_rejoin(&mut self) -> Result<Option<Duration>> {
        self.nodes[0].stop()?;
        let began = Instant::now();
        self.nodes[0].start()?;
        self.nodes[0].wait_until("in sync again", PATIENCE, Status::in_sync)?;
        Ok(Some(began.elapsed()))
    }

    fn resident(&self, end: End) -> Vec<u32> {
        let node = match end {
            End::Source => &self.nodes[0],
            End::Sink => &self.nodes[1],
        };
        node.pid().into_iter().collect()
    }

    fn watches(&self) -> bool {
        true
    }

    fn resent(&self) -> Option<u64> {
        self.nodes[1].status().ok().map(|status| status.counters.content_bytes_resent)
    }

    fn persist(&mut self) -> Result<()> {
        Ok(())
    }
}
