//! How each fault ends.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use rustix::process::{Resource, Signal, prlimit};

use super::blows::{feed, pid_of, raw};
use super::{Active, Nemesis, Target, Undo};
use crate::chaos::ground::Ground;
use crate::faults::{Faults, Survivors};

impl Nemesis {
    pub(super) fn undo(&mut self, ground: &mut Ground, active: Active) -> Result<()> {
        if Self::is_void(&active, ground) {
            self.counts.entry(active.kind).or_default().void += 1;
        }
        let Active { kind, target, undo, .. } = active;
        match target {
            Target::Link(link) => self.heal_link(ground, link),
            Target::Links(links) => links.iter().for_each(|link| self.heal_link(ground, *link)),
            Target::Node(node) => self
                .undo_node(ground, node, undo)
                .with_context(|| format!("undoing {kind:?} on node {node}"))?,
        }
        Ok(())
    }

    fn heal_link(&mut self, ground: &Ground, link: usize) {
        let proxy = &ground.links[link].proxy;
        proxy.set_both(Faults::default());
        proxy.heal_with([Survivors::Resume, Survivors::Reset][self.index(2)]);
    }

    fn undo_node(&mut self, ground: &mut Ground, node: usize, undo: Undo) -> Result<()> {
        match undo {
            Undo::Nothing | Undo::HealLinks | Undo::Flap { .. } => Ok(()),
            Undo::Deliver { outgoing } => ground.lose(node, outgoing, false),
            Undo::LineUp => ground.line(node, true),
            Undo::Start => {
                self.restarts += 1;
                ground.nodes[node].start()
            }
            Undo::Thaw => ground.nodes[node].signal(Signal::CONT),
            Undo::Feed => feed(pid_of(ground, node)?),
            Undo::ManyFiles { limit } => {
                prlimit(Some(raw(pid_of(ground, node)?)?), Resource::Nofile, limit)?;
                Ok(())
            }
            Undo::RemoveFiller => Ok(fs::remove_file(ground.volume(node).join("filler"))?),
            Undo::Writable => ground.set_read_only(node, false),
            Undo::PutRootBack => {
                let folder = ground.folder(node);
                Ok(fs::rename(folder.with_extension("away"), &folder)?)
            }
            Undo::Readable { dir } => {
                let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
                Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
            }
            Undo::SetClock => ground.shift_clock(node, 0),
        }
    }
}
