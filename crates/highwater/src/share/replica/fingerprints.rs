//! The fingerprints of the index: kept with every change, proved against the entries themselves.

use highwater_core::Key;
use highwater_core::fingerprint::{Blocks, KeyRange, StateDigest};
use highwater_store::StoreError;

use super::Replica;

impl Replica {
    /// Divides the blocks of fingerprints that have grown too large. Their entries are read again,
    /// which proves the sums.
    pub(super) fn divide_grown(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.grown.pop_first() {
            // One division serves all that made the block too large.
            if self.blocks.is_too_large(&key) {
                self.prove(self.blocks.range_of(&key))?;
            }
        }
        Ok(())
    }

    /// Reads the entries of a block, and divides it by them. Whether its sum was right. Only while
    /// nothing is pending.
    fn prove(&mut self, range: KeyRange) -> Result<bool, StoreError> {
        let entries = self.digests_in(&range).collect::<Result<Vec<_>, _>>()?;
        let digests = entries.iter().map(|(key, digest)| (key, *digest));
        let sound = self.blocks.divide(range, digests);
        if !sound {
            tracing::warn!(share = %self.name, "a fingerprint of the index was wrong and is set right");
        }
        Ok(sound)
    }

    /// Proves the block that begins with `from`, or the first: whether its fingerprint was right, and
    /// where the next begins.
    pub(crate) fn prove_block(
        &mut self,
        from: Option<&Key>,
    ) -> Result<(bool, Option<Key>), StoreError> {
        let range = self.blocks.range_from(from);
        let next = range.before.clone();
        Ok((self.prove(range)?, next))
    }

    /// The live entries of a range with their digests, in order, as the store has them.
    pub(crate) fn digests_in(
        &self,
        range: &KeyRange,
    ) -> impl Iterator<Item = Result<(Key, StateDigest), StoreError>> + use<> {
        let KeyRange { from, before } = range;
        let rows = self.store.entries_in(self.number(), from.as_ref(), before.as_ref());
        let live = rows.filter(|row| row.as_ref().map_or(true, |row| row.entry.kind.is_live()));
        live.map(|row| {
            let entry = row?.entry;
            let digest = StateDigest::of(&entry.key, &entry.kind);
            Ok((entry.key, digest))
        })
    }

    /// The fingerprints of the index.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}
