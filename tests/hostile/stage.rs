//! The victim, its honest peer, the hostile one, and what must hold after every attack.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_lab::cluster::{Cluster, SHARE};
use highwater_lab::hostile::{Credentials, Ending, Offered, Peer};
use highwater_lab::node::{Node, NodeSpec, Resident};
use highwater_lab::oracle;
use highwater_lab::status::{PeerStatus, Position, ShareStatus};
use highwater_tests::with_cluster;

/// Longest wait for anything that must come about. Only a failure reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Most memory that an attack may cost at its height, in bytes: what a link may have under way,
/// twice over, and half of that again for the heap, which a victim that had a quiet moment before has
/// given back and grows anew. The manifest of a content that is under way comes on top of it.
const GROWTH_MAX: u64 = 24 * 1024 * 1024;
/// Log lines that an attack may cause beside one a second: a link that comes and goes says so.
const LINES_FREE: u64 = 12;
/// A log that has not moved for this long has come to rest. Longer than any wait before a retry
/// that would move it, other than those for content that nobody has.
const AT_REST: Duration = Duration::from_secs(2);
/// The reason in a goodbye to a side that broke the protocol.
pub(crate) const MISBEHAVED: Ending = Ending::Goodbye(5);

/// Where an attack takes place. The victim is node 0 of the cluster, the honest peer node 1.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a mut Cluster,
    /// The hostile peer's home; its daemon never runs.
    pub(crate) mallory: Node,
    pub(crate) credentials: Credentials,
    /// Beside the share and outside of it: nothing may happen to it.
    pub(crate) canary: PathBuf,
    /// Most memory that an attack may cost at its height, in bytes.
    pub(crate) growth_max: u64,
    attacks: u64,
}

/// What an attack may change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Neither the folder nor the log.
    Nothing,
    /// The log alone: something was taken back that never came to be.
    Log,
    /// Both, within what the protocol allows a peer; the case itself says what.
    Entries,
}

/// How it stood before an attack.
struct Before {
    pid: Option<u32>,
    tree: oracle::Tree,
    canary: oracle::Tree,
    head: u64,
    resident: u64,
    lines: u64,
    at: Instant,
}

/// Sets the stage and plays on it.
pub(crate) fn on_stage(play: impl FnOnce(&mut Stage<'_>) -> Result<()>) {
    with_cluster(&["victim", "honest"], &[(1, 0)], |cluster| {
        let dir = cluster.dir();
        let mallory =
            Node::init(NodeSpec::on_loopback(&cluster.nodes[0].spec().exe, "mallory")?, &dir)?;
        cluster.nodes[0].add_peer(mallory.id(), None, &[SHARE])?;
        let canary = dir.join("canary");
        fs::create_dir(&canary)?;
        fs::write(canary.join("song"), "yellow")?;
        fs::write(cluster.folder(0).join("kept.txt"), "what the victim holds")?;
        fs::create_dir(cluster.folder(0).join("dir"))?;
        fs::write(cluster.folder(0).join("dir/inner.txt"), "deeper")?;
        cluster.start_all()?;
        cluster.nodes[1].wait_in_sync(PATIENCE)?;
        let credentials = Credentials::of_home(&mallory.home())?;
        let growth_max = GROWTH_MAX;
        let mut stage = Stage { cluster, mallory, credentials, canary, growth_max, attacks: 0 };
        until("both logs are taken in", || stage.heads_met())?;
        play(&mut stage)
    });
}

impl Stage<'_> {
    pub(crate) fn victim(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.victim().spec().sync
    }

    /// A link that has greeted.
    pub(crate) fn linked(&self) -> Result<Peer> {
        Peer::linked(self.addr(), &self.credentials)
    }

    /// A link that has offered a log of the share, and what the victim offers.
    pub(crate) fn sharing(&self, epoch: [u8; 16], head: u64) -> Result<(Peer, Offered)> {
        Peer::sharing(self.addr(), &self.credentials, SHARE, epoch, head)
    }

    /// The victim's share as its status shows it.
    pub(crate) fn share(&self) -> Result<ShareStatus> {
        let status = self.victim().status()?;
        status.share(SHARE).cloned().context("the victim has lost its share")
    }

    /// Waits until the victim wants nothing more that it can have: its log has come to rest.
    pub(crate) fn settled(&self) -> Result<()> {
        let mut last = (u64::MAX, u64::MAX);
        let mut since = Instant::now();
        until("the victim has come to rest", || {
            let share = self.share()?;
            let now = (share.head_seq, share.needed.entries);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok(share.state == "idle" || since.elapsed() > AT_REST)
        })
    }

    /// Fails unless the victim's log comes to rest: something goes round in circles.
    pub(crate) fn stays_quiet(&self) -> Result<()> {
        let (mut head, mut since) = (self.share()?.head_seq, Instant::now());
        until("the victim's log comes to rest", || {
            let now = self.share()?.head_seq;
            if now != head {
                (head, since) = (now, Instant::now());
            }
            Ok(since.elapsed() > AT_REST)
        })
    }

    /// Plays one attack and judges what it left behind.
    pub(crate) fn attack(
        &mut self,
        name: &str,
        effect: Effect,
        attack: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let before = self.before().with_context(|| format!("before {name}"))?;
        attack(self).with_context(|| format!("the attack {name}"))?;
        self.aftermath(&before, effect).with_context(|| format!("the aftermath of {name}"))
    }

    fn before(&self) -> Result<Before> {
        let victim = self.victim();
        let pid = victim.pid().context("the victim is down")?;
        // Begins a new measurement of the highest resident size.
        fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        // Where it begins, read before anything else: what the last attack left is given back
        // meanwhile, and a size read later would count that as growth.
        let resident = Resident::of(pid)?.peak;
        Ok(Before {
            pid: Some(pid),
            tree: oracle::read_tree(&self.cluster.folder(0))?,
            canary: oracle::read_tree(&self.canary)?,
            head: self.share()?.head_seq,
            resident,
            lines: lines(&victim.log_path())?,
            at: Instant::now(),
        })
    }

    fn aftermath(&mut self, before: &Before, effect: Effect) -> Result<()> {
        ensure!(self.victim().pid() == before.pid, "the victim is another process");
        let after = self.victim().resident_bytes()?;
        let growth = after.peak.saturating_sub(before.resident);
        ensure!(growth < self.growth_max, "the victim grew by {growth} bytes");
        let canary = oracle::differences(&before.canary, &oracle::read_tree(&self.canary)?);
        ensure!(canary.is_empty(), "outside of the share: {canary:?}");
        if effect != Effect::Entries {
            let tree = oracle::read_tree(&self.cluster.folder(0))?;
            let changed = oracle::differences(&before.tree, &tree);
            ensure!(changed.is_empty(), "in the share: {changed:?}");
        }
        if effect == Effect::Nothing {
            let head = self.share()?.head_seq;
            ensure!(head == before.head, "the log went from {} to {head}", before.head);
        }
        let written = lines(&self.victim().log_path())? - before.lines;
        let allowed = LINES_FREE + before.at.elapsed().as_secs();
        ensure!(written <= allowed, "{written} log lines in {:?}", before.at.elapsed());
        self.honest_peer_is_served()
    }

    /// A new file crosses in each direction, and both agree.
    fn honest_peer_is_served(&mut self) -> Result<()> {
        self.attacks += 1;
        let folders = [self.cluster.folder(0), self.cluster.folder(1)];
        let heads = [self.head(0)?, self.head(1)?];
        for (from, folder) in folders.iter().enumerate() {
            fs::write(folder.join(format!("after-{}-from-{from}", self.attacks)), "news")?;
        }
        oracle::wait_equal(&folders, PATIENCE)?;
        // What stands under its name may not be on record yet: the next attack would be blamed.
        until("both files are in both logs", || {
            Ok(self.has_logged_news(0, heads[0])? && self.has_logged_news(1, heads[1])?)
        })?;
        until("both logs are taken in", || self.heads_met())?;
        ensure!(folders[0].join(format!("after-{}-from-1", self.attacks)).exists());
        Ok(())
    }
}

impl Stage<'_> {
    fn head(&self, node: usize) -> Result<u64> {
        let status = self.cluster.nodes[node].status()?;
        Ok(status.share(SHARE).context("a share is lost")?.head_seq)
    }

    /// Whether the latest files of both sides are in the log of this node, behind `head`.
    fn has_logged_news(&self, node: usize, head: u64) -> Result<bool> {
        let since = head.to_string();
        let log = self.cluster.nodes[node].run(&["--json", "log", SHARE, "--since", &since])?;
        let has = |from: usize| log.contains(&format!("\"after-{}-from-{from}\"", self.attacks));
        Ok(has(0) && has(1))
    }

    /// Whether the victim and the honest peer know all of each other's log. What the hostile one
    /// announced and nobody has may be wanted still.
    fn heads_met(&self) -> Result<bool> {
        let of = |node: usize, other: usize| -> Result<bool> {
            let status = self.cluster.nodes[node].status()?;
            let share = status.share(SHARE).context("a share is lost")?;
            let peer = share.peers.iter().find(|p| p.node_id == self.cluster.nodes[other].id());
            // A status is a moment old: what one says of its log must be what the other heard.
            let head = self.head(other)?;
            let met = |pull: &Position| pull.acked_seq == head && pull.head_seq == head;
            let push_met = |p: &PeerStatus| p.push.acked_seq == share.head_seq;
            Ok(peer.is_some_and(|peer| peer.connected && met(&peer.pull) && push_met(peer)))
        };
        Ok(of(0, 1)? && of(1, 0)?)
    }
}

fn lines(log: &Path) -> Result<u64> {
    Ok(fs::read_to_string(log)?.lines().count() as u64)
}

/// Whether the log of the victim has said this since its start.
pub(crate) fn has_said(victim: &Node, words: &str) -> Result<bool> {
    Ok(fs::read_to_string(victim.log_path())?.contains(words))
}

/// Asks again until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "waiting {PATIENCE:?} until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
