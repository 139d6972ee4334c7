//! What is in the store, kind by kind. A row that cannot be understood is an error, never an absent
//! one.

use highwater_core::content::{CHUNKS_MAX, Manifest};
use highwater_core::fetch::ChunkSet;
use highwater_core::{ChunkSizes, ContentHash, Key, LogDigest, NodeId, Seq};
use serde::de::DeserializeOwned;

use super::{Store, StoreError};
use crate::backend::DatabaseError;
use crate::rows::{
    BITMAP_PART_WORDS, DeepRow, EntryRow, FoundRow, LogRow, ManifestPart, MarkerRow, PastRow,
    PeerRow, RetiredRow, ShareNumber, StageRow, WantClass, WantRow, content_key, deep_key,
    entry_key, found_key, in_share, log_key, marker_key, part_key, past_key, peer_key, retired_key,
    want_key, want_prefix,
};

impl Store {
    /// The index row of `key`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn entry(&self, share: ShareNumber, key: &Key) -> Result<Option<EntryRow>, StoreError> {
        self.row(&entry_key(share, key))
    }

    /// The index rows in key order: of the whole share, or of what lies inside `dir`.
    pub fn entries(
        &self,
        share: ShareNumber,
        dir: Option<&Key>,
    ) -> impl Iterator<Item = Result<EntryRow, StoreError>> + use<> {
        let prefix = match dir {
            Some(dir) => [entry_key(share, dir), vec![0]].concat(),
            None => in_share(b'e', share, &[]),
        };
        self.database.rows(&prefix, &prefix).map(|row| decode(&row?.1))
    }

    /// The index rows from `from` on and before `before`, in key order.
    pub fn entries_in(
        &self,
        share: ShareNumber,
        from: Option<&Key>,
        before: Option<&Key>,
    ) -> impl Iterator<Item = Result<EntryRow, StoreError>> + use<> {
        let prefix = in_share(b'e', share, &[]);
        let from = from.map_or_else(|| prefix.clone(), |from| entry_key(share, from));
        let before = before.map(|before| entry_key(share, before));
        let rows = self.database.rows(&prefix, &from);
        // An error ends the reading where it is passed on.
        let within = rows.take_while(move |row| match (row, &before) {
            (Ok((key, _)), Some(before)) => key < before,
            _ => true,
        });
        within.map(|row| decode(&row?.1))
    }

    /// How far the latest deep pass of the checker has come.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn deep(&self, share: ShareNumber) -> Result<Option<DeepRow>, StoreError> {
        self.row(&deep_key(share))
    }

    /// What the latest deep pass found under a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn found(&self, share: ShareNumber, key: &Key) -> Result<Option<FoundRow>, StoreError> {
        self.row(&found_key(share, key))
    }

    /// The keys behind `after` under which the latest deep pass found something, in order.
    pub fn found_after(
        &self,
        share: ShareNumber,
        after: Option<&Key>,
    ) -> impl Iterator<Item = Result<Key, StoreError>> + use<> {
        let prefix = in_share(b'f', share, &[]);
        let from = match after {
            Some(key) => [found_key(share, key), vec![0]].concat(),
            None => prefix.clone(),
        };
        self.database.rows(&prefix, &from).map(|row| {
            let (key, _) = row?;
            let key = Key::from_ordered_bytes(key.get(5..).unwrap_or_default());
            key.map_err(|error| StoreError::Damaged(error.to_string()))
        })
    }

    /// The log row at `seq`, unless compaction has removed it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn log_at(&self, share: ShareNumber, seq: Seq) -> Result<Option<LogRow>, StoreError> {
        self.row(&log_key(share, seq))
    }

    /// What stood at a position that its entry has left, if that is still kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn retired_at(
        &self,
        share: ShareNumber,
        seq: Seq,
    ) -> Result<Option<RetiredRow>, StoreError> {
        self.row(&retired_key(share, seq))
    }

    /// The positions that are remembered though their entries have left them, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn retired(&self, share: ShareNumber) -> Result<Vec<Seq>, StoreError> {
        let prefix = in_share(b'v', share, &[]);
        let seq =
            |key: Vec<u8>| Some(Seq(u64::from_be_bytes(key.get(prefix.len()..)?.try_into().ok()?)));
        let rows = self.database.rows(&prefix, &prefix);
        let seqs = rows.map(|row| Ok(seq(row?.0))).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(seqs.into_iter().flatten().collect())
    }

    /// What is remembered of the marker in the share's root.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn marker(&self, share: ShareNumber) -> Result<Option<MarkerRow>, StoreError> {
        self.row(&marker_key(share))
    }

    /// The histories of this node's log that are over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn past(&self, share: ShareNumber) -> Result<Option<PastRow>, StoreError> {
        self.row(&past_key(share))
    }

    /// The log rows behind `after`, in order.
    pub fn log_after(
        &self,
        share: ShareNumber,
        after: Seq,
    ) -> impl Iterator<Item = Result<(Seq, LogRow), StoreError>> + use<> {
        let prefix = in_share(b'l', share, &[]);
        self.database.rows(&prefix, &log_key(share, after.next())).map(decode_log)
    }

    /// The last position of the log and the digest there: the head never is compacted away.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn head(&self, share: ShareNumber) -> Result<(Seq, LogDigest), StoreError> {
        let prefix = in_share(b'l', share, &[]);
        match self.database.rows(&prefix, &prefix).next_back() {
            Some(row) => decode_log(row).map(|(seq, row)| (seq, row.digest)),
            None => Ok((Seq::ZERO, LogDigest::EMPTY)),
        }
    }

    /// What is wanted under `key`, and its class.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn want(
        &self,
        share: ShareNumber,
        key: &Key,
    ) -> Result<Option<(WantClass, WantRow)>, StoreError> {
        for class in WantClass::ALL {
            if let Some(row) = self.row(&want_key(share, class, key))? {
                return Ok(Some((class, row)));
            }
        }
        Ok(None)
    }

    /// The wanted entries of a class behind `after`, in key order; from the other end in reverse.
    pub fn wants(
        &self,
        share: ShareNumber,
        class: WantClass,
        after: Option<&Key>,
    ) -> impl DoubleEndedIterator<Item = Result<WantRow, StoreError>> + use<> {
        let prefix = want_prefix(share, class);
        let from = match after {
            // The next possible key in byte order.
            Some(key) => [want_key(share, class, key), vec![0]].concat(),
            None => prefix.clone(),
        };
        self.database.rows(&prefix, &from).map(|row| decode(&row?.1))
    }

    /// What is remembered of a peer.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peer(&self, share: ShareNumber, node: &NodeId) -> Result<PeerRow, StoreError> {
        Ok(self.row(&peer_key(share, node))?.unwrap_or_default())
    }

    /// The peers that something is remembered of, listed now or not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn peers(&self, share: ShareNumber) -> Result<Vec<NodeId>, StoreError> {
        let prefix = in_share(b'p', share, &[]);
        let node = |key: Vec<u8>| key.get(prefix.len()..)?.try_into().ok().map(NodeId::from_bytes);
        let rows = self.database.rows(&prefix, &prefix);
        let nodes = rows.map(|row| Ok(node(row?.0))).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(nodes.into_iter().flatten().collect())
    }

    /// The manifest of a content, if it was recorded whole.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn manifest(
        &self,
        share: ShareNumber,
        content: &ContentHash,
        size: u64,
    ) -> Result<Option<Manifest>, StoreError> {
        let prefix = content_key(b'm', share, content);
        // As one piece from the start: growing by and by, a long one would be there twice.
        let expected = (size / ChunkSizes::for_content(size).average as u64).min(CHUNKS_MAX as u64);
        let mut chunks = Vec::with_capacity(expected as usize);
        for row in self.database.rows(&prefix, &prefix) {
            let ManifestPart(part) = decode(&row?.1)?;
            chunks.extend(part);
        }
        Ok(Manifest::new(*content, chunks).filter(|m| m.size() == size && size > 0))
    }

    /// The contents that have a recorded manifest, with the number of their parts.
    pub fn manifests(
        &self,
        share: ShareNumber,
    ) -> impl Iterator<Item = Result<(ContentHash, usize), StoreError>> + use<> {
        let prefix = in_share(b'm', share, &[]);
        let mut rows = self.database.rows(&prefix, &prefix).peekable();
        std::iter::from_fn(move || {
            let first = match rows.next()? {
                Ok((key, _)) => key,
                Err(error) => return Some(Err(error.into())),
            };
            let mut parts = 1;
            while matches!(rows.peek(), Some(Ok((key, _))) if key.get(..37) == first.get(..37)) {
                rows.next();
                parts += 1;
            }
            Some(content_in(&first).map(|content| (content, parts)))
        })
    }

    /// How far a content is staged, if it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stage(
        &self,
        share: ShareNumber,
        content: &ContentHash,
        chunks: usize,
    ) -> Result<Option<(StageRow, ChunkSet)>, StoreError> {
        let Some(row) = self.row::<StageRow>(&content_key(b't', share, content))? else {
            return Ok(None);
        };
        let mut words = Vec::new();
        for part in 0..chunks.div_ceil(64 * BITMAP_PART_WORDS) {
            let part: Option<Vec<u64>> = self.row(&part_key(b'u', share, content, part))?;
            // A part that was empty ever since is not stored, but those behind it may be.
            words.extend(part.unwrap_or_else(|| vec![0; BITMAP_PART_WORDS]));
        }
        Ok(Some((row, ChunkSet::from_words(words, chunks))))
    }

    /// The contents that have something staged.
    pub fn stages(
        &self,
        share: ShareNumber,
    ) -> impl Iterator<Item = Result<(ContentHash, StageRow), StoreError>> + use<> {
        let prefix = in_share(b't', share, &[]);
        self.database.rows(&prefix, &prefix).map(|row| {
            let (key, value) = row?;
            Ok((content_in(&key)?, decode(&value)?))
        })
    }

    pub(super) fn row<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.database.get(key)?.map(|value| decode(&value)).transpose()
    }
}

pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn decode_log(row: Result<(Vec<u8>, Vec<u8>), DatabaseError>) -> Result<(Seq, LogRow), StoreError> {
    let (key, value) = row?;
    let seq = key.get(5..).and_then(|seq| seq.try_into().ok());
    let seq =
        seq.ok_or_else(|| StoreError::Damaged("a log position has the wrong length".into()))?;
    Ok((Seq(u64::from_be_bytes(seq)), decode(&value)?))
}

fn content_in(key: &[u8]) -> Result<ContentHash, StoreError> {
    let bytes = key.get(5..37).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(ContentHash::from_bytes)
        .ok_or_else(|| StoreError::Damaged("a content hash has the wrong length".into()))
}
