//! What membership has to remember over a restart, in one small file of the home.
//!
//! ```text
//! highwater members 1\n  32 bytes: BLAKE3 of the rest  |  postcard of `Rows`
//! ```
//!
//! It is replaced as a whole. Its incarnation is raised and durable before the node says anything
//! about itself, so that whatever others still claim of an earlier run is out of date. A file that is
//! lost or damaged costs nothing for good: the others remember this node's last incarnation, and it
//! goes beyond theirs as soon as it hears of it; members are learned again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use highwater_core::member::{Order, Seal};
use highwater_core::membership::Saved;
use highwater_net::{open_card, open_order};
use serde::{Deserialize, Serialize};

const HEADER: &[u8] = b"highwater members 1\n";
const HASH_BYTES: usize = 32;
/// Longest file that is read, in bytes: the members and orders that are remembered at most, at a
/// kilobyte and a half each.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What is remembered.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The last incarnation that this node took.
    pub(crate) incarnation: u64,
    pub(crate) members: Vec<Saved>,
    pub(crate) orders: Vec<Order>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Rows {
    incarnation: u64,
    /// Cards, and whether their node had failed.
    cards: Vec<(Seal, bool)>,
    orders: Vec<Seal>,
}

impl Memory {
    /// Reads the file. One that is not there, or cannot be used, is an empty memory.
    pub(crate) fn load(path: &Path) -> Self {
        let rows = match read(path) {
            Ok(Some(rows)) => rows,
            Ok(None) => Rows::default(),
            Err(why) => {
                let path = path.display();
                tracing::warn!("cannot use {path} ({why}); the cluster's members are learned anew");
                Rows::default()
            }
        };
        let card = |(seal, failed)| Some(Saved { card: open_card(seal)?, failed });
        Self {
            incarnation: rows.incarnation,
            members: rows.cards.into_iter().filter_map(card).collect(),
            orders: rows.orders.into_iter().filter_map(open_order).collect(),
        }
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// What the file system says; the old file is as it was.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let card = |saved: &Saved| (saved.card.sealed().seal.clone(), saved.failed);
        let rows = Rows {
            incarnation: self.incarnation,
            cards: self.members.iter().map(card).collect(),
            orders: self.orders.iter().map(|order| order.sealed().seal.clone()).collect(),
        };
        let body = postcard::to_stdvec(&rows).map_err(io::Error::other)?;
        let beside = path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(HEADER)?;
        file.write_all(blake3::hash(&body).as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

fn read(path: &Path) -> Result<Option<Rows>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let rest = bytes.strip_prefix(HEADER).ok_or("it has another format")?;
    let (hash, body) = rest.split_at_checked(HASH_BYTES).ok_or("it is cut short")?;
    if blake3::hash(body).as_bytes() != hash {
        return Err("it is damaged".to_owned());
    }
    postcard::from_bytes(body).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_and_a_damaged_file_is_an_empty_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("members");
        assert_eq!(Memory::load(&path).incarnation, 0);
        Memory { incarnation: 77, ..Memory::default() }.save(&path).expect("saved");
        assert_eq!(Memory::load(&path).incarnation, 77);
        let whole = fs::read(&path).expect("there");
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            fs::write(&path, &flipped).expect("written");
            assert_eq!(Memory::load(&path).incarnation, 0, "byte {place} flipped");
            fs::write(&path, &whole[..place]).expect("written");
            assert_eq!(Memory::load(&path).incarnation, 0, "cut at {place}");
        }
    }
}
