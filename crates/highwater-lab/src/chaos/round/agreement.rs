//! After a storm: all agree, and fall silent, and say the same of it.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::Run;
use crate::chaos::ground;
use crate::chaos::limits::{DIALS_PER_SECOND_MAX, IDLE_BYTES_PER_SECOND_MAX, share_state};
use crate::cluster::SHARE;
use crate::faults::Direction;
use crate::node::Node;
use crate::oracle::{self, Tree};
use crate::status::Status;

/// How long nodes that have not agreed may go without any progress: no content, no entry, no
/// position. A busy machine needs a part of it.
const AGREE_PATIENCE: Duration = Duration::from_secs(90);
/// How long agreement may take in all, however much comes in: a line of 1 MB/s carries every folder
/// in half of it. Nodes that send the same to and fro for ever reach it.
const AGREE_MAX: Duration = Duration::from_secs(600);
/// How often agreement is looked for.
const AGREE_INTERVAL: Duration = Duration::from_millis(200);
/// How long nothing may be said once there is nothing to say.
const SILENCE: Duration = Duration::from_secs(5);

impl Run {
    /// Heals, waits for agreement and silence, and audits what happened since the last time.
    pub(super) fn settle(&mut self, when: &str) -> Result<()> {
        self.gate.close();
        self.nemesis.heal(&mut self.ground)?;
        self.note_pids();
        let began = Instant::now();
        let tree = self.agree().with_context(|| format!("after {when}: L1, no agreement"))?;
        let took = began.elapsed().as_secs_f64();
        let slowest = self.report.slowest_convergence_seconds.max(took);
        self.report.slowest_convergence_seconds = slowest;
        self.demand_silence().with_context(|| format!("after {when}: L2"))?;
        self.demand_no_tears()?;
        self.audit(&tree).with_context(|| format!("after {when}"))?;
        self.demand_same_verdict().with_context(|| format!("after {when}"))?;
        if let Some(breach) = self.seen.breaches().first() {
            bail!("after {when}: L6, {breach}");
        }
        eprintln!("  {when}: agreed after {took:.1} s on {} files", self.files.len());
        Ok(())
    }

    /// Waits until every node says that it is in sync and all folders are equal on disk.
    fn agree(&self) -> Result<Tree> {
        let folders: Vec<PathBuf> =
            (0..self.ground.nodes.len()).map(|node| self.ground.folder(node)).collect();
        let began = Instant::now();
        let (mut moved, mut moved_at) = (0, began);
        loop {
            let statuses: Vec<_> =
                self.ground.nodes.iter().filter_map(|node| node.status().ok()).collect();
            let all = statuses.len() == self.ground.nodes.len();
            if all && statuses.iter().all(Status::in_sync) {
                let trees = folders.iter().map(|folder| oracle::read_tree(folder));
                let trees = trees.collect::<Result<Vec<_>>>()?;
                let in_sync = |node: &Node| node.status().is_ok_and(|status| status.in_sync());
                let equal = trees.iter().all(|tree| *tree == trees[0]);
                if equal && self.ground.nodes.iter().all(in_sync) {
                    return Ok(trees.into_iter().next().unwrap_or_default());
                }
            }
            let moves = statuses.iter().map(moves).sum();
            if moves != moved {
                (moved, moved_at) = (moves, Instant::now());
            }
            if moved_at.elapsed() > AGREE_PATIENCE || began.elapsed() > AGREE_MAX {
                return Err(self.disagreement(&folders));
            }
            thread::sleep(AGREE_INTERVAL);
        }
    }

    /// What stands in the way of agreement.
    fn disagreement(&self, folders: &[PathBuf]) -> anyhow::Error {
        let mut what = String::new();
        for (number, node) in self.ground.nodes.iter().enumerate() {
            let said = match node.status() {
                Ok(status) => {
                    let share = status.share(SHARE).cloned().unwrap_or_default();
                    let peers: Vec<_> =
                        share.peers.iter().map(|p| (p.connected, p.in_sync)).collect();
                    let (state, needed) = (share_state(&status).to_owned(), share.needed);
                    let transfers = &status.transfers;
                    format!("{state}, {needed:?}, {peers:?}, {:?}, {transfers:?}", share.problems)
                }
                Err(error) => format!("{error:#}"),
            };
            what += &format!("\nnode {number}: {said}");
        }
        match oracle::demand_equal(folders) {
            Ok(()) => anyhow!("the folders are equal, but not everybody is in sync:{what}"),
            Err(error) => anyhow!("{error:#}{what}"),
        }
    }

    /// Demands that nobody says, logs or applies anything when there is nothing to do (L2), and that
    /// nobody dialled more than the waits allow (L9).
    fn demand_silence(&self) -> Result<()> {
        let heads = || -> Result<Vec<(u64, u64)>> {
            let of = |node: &Node| {
                let status = node.status()?;
                let head = status.share(SHARE).map_or(0, |share| share.head_seq);
                Ok((head, status.counters.content_bytes_received))
            };
            self.ground.nodes.iter().map(of).collect()
        };
        let carried = || -> Vec<u64> {
            let both = |link: &ground::Link| {
                let report = link.proxy.report();
                Direction::BOTH.iter().map(|direction| report.bytes(*direction)).sum()
            };
            self.ground.links.iter().map(both).collect()
        };
        let (heads_before, carried_before) = (heads()?, carried());
        thread::sleep(SILENCE);
        let (heads_after, carried_after) = (heads()?, carried());
        if heads_before != heads_after {
            bail!("logs or contents moved: {heads_before:?}, then {heads_after:?}");
        }
        for (link, (before, after)) in carried_before.iter().zip(&carried_after).enumerate() {
            let said = after - before;
            if said > IDLE_BYTES_PER_SECOND_MAX * SILENCE.as_secs() {
                bail!("link {link} carried {said} bytes in {SILENCE:?} with nothing to say");
            }
        }
        for link in &self.ground.links {
            let connections = link.proxy.report().connections;
            let last = connections.last().map_or(0, |last| last.opened_ms);
            let from = last.saturating_sub(u64::try_from(self.options.storm.as_millis())?);
            let recent = connections.iter().filter(|opened| opened.opened_ms >= from).count();
            let most = DIALS_PER_SECOND_MAX * (self.options.storm.as_secs_f64() + 10.0);
            if recent as f64 > most {
                bail!("L9: {recent} connections in a round, at most {most}");
            }
        }
        Ok(())
    }

    pub(super) fn demand_no_tears(&self) -> Result<()> {
        match self.readings.torn().first() {
            Some(torn) => bail!("I3: {torn}"),
            None => Ok(()),
        }
    }

    /// The product's own checker must come to what the disks have shown: that all copies are the same.
    fn demand_same_verdict(&self) -> Result<()> {
        let node = &self.ground.nodes[0];
        let output = node.try_run(&["check", SHARE, "--deep", "--json"])?;
        ensure!(
            output.status.success(),
            "C2: the folders are equal, and highwater check says otherwise: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// A number that grows with everything that a node gets done.
fn moves(status: &Status) -> u64 {
    let share = status.share(SHARE);
    let positions = share.map_or(0, |share| {
        share.head_seq + share.peers.iter().map(|peer| peer.pull.acked_seq).sum::<u64>()
    });
    let counters = &status.counters;
    positions + counters.content_bytes_received + counters.entries_applied
}
