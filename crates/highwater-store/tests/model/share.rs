//! What one share should hold, and whether the store agrees.

use std::collections::BTreeMap;
use std::fmt::Debug;

use highwater_core::fetch::ChunkSet;
use highwater_core::{Actor, ContentHash, Epoch, Key, LogDigest, Manifest, NodeId, Seq};
use highwater_store::{
    Commit, EntryRow, LogRow, PeerRow, ShareNumber, ShareRow, StageRow, Store, StoreError,
    WantClass, WantRow,
};

use crate::rows::{
    CLASSES, NODES, STAGED_CHUNKS, digest, entry, hash, keys, manifest, peer, stage,
};
use crate::{Change, What};

/// The key of an entry as the names it consists of, which is also how keys are ordered.
type Names = Vec<String>;

fn names(key: &Key) -> Names {
    key.as_str().split('/').map(str::to_owned).collect()
}

/// One share as plain maps.
pub(crate) struct Share {
    pub(crate) row: ShareRow,
    entries: BTreeMap<Names, EntryRow>,
    log: BTreeMap<Seq, LogRow>,
    wants: BTreeMap<(WantClass, Names), WantRow>,
    peers: BTreeMap<NodeId, PeerRow>,
    manifests: BTreeMap<ContentHash, Manifest>,
    stages: BTreeMap<ContentHash, (StageRow, ChunkSet)>,
}

impl Share {
    pub(crate) fn new(number: ShareNumber) -> Self {
        Self {
            row: ShareRow { number, epoch: Epoch([1; 16]), generation: 0, raising: 0 },
            entries: BTreeMap::new(),
            log: BTreeMap::new(),
            wants: BTreeMap::new(),
            peers: BTreeMap::new(),
            manifests: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }

    fn head(&self) -> Seq {
        self.log.last_key_value().map_or(Seq::ZERO, |(&seq, _)| seq)
    }

    /// Notes the change in the model and adds it to the commit.
    pub(crate) fn apply(&mut self, change: &Change, commit: &mut Commit) {
        let Change { what, key, content, salt } = change;
        let number = self.row.number;
        match what {
            What::Append => self.append(key, *salt, commit),
            What::PutEntry => self.put_entry(key, *salt, commit),
            What::ForgetEntry => self.forget_entry(key, commit),
            What::PutWant(class) => {
                let row = WantRow { entry: entry(key, *salt), learned_from: Some(Actor(*salt)) };
                commit.put_want(number, *class, &row);
                self.wants.insert((*class, names(key)), row);
            }
            What::DeleteWant(class) => {
                commit.delete_want(number, *class, key);
                self.wants.remove(&(*class, names(key)));
            }
            What::PutPeer => {
                let (node, row) = (NODES[content % NODES.len()], peer(*salt));
                commit.put_peer(number, &node, &row);
                self.peers.insert(node, row);
            }
            What::PutManifest => self.put_manifest(*content, *salt, commit),
            What::DeleteManifest => self.delete_manifest(*content, commit),
            What::PutStage => self.put_stage(*content, *salt, commit),
            What::DeleteStage => {
                commit.delete_stage(number, &hash(*content), STAGED_CHUNKS[*content]);
                self.stages.remove(&hash(*content));
            }
        }
    }

    fn append(&mut self, key: &Key, salt: u64, commit: &mut Commit) {
        let seq = self.head().next();
        let print = salt.is_multiple_of(2).then(|| salt.to_be_bytes().to_vec());
        let row = EntryRow { entry: entry(key, salt), seq, print, learned_from: None };
        let log = LogRow { key: key.clone(), digest: digest(salt) };
        let old = self.entries.insert(names(key), row.clone()).map(|old| old.seq);
        commit.append(self.row.number, &row, &log, old);
        if let Some(old) = old {
            self.log.remove(&old);
        }
        self.log.insert(seq, log);
    }

    fn put_entry(&mut self, key: &Key, salt: u64, commit: &mut Commit) {
        let Some(row) = self.entries.get_mut(&names(key)) else { return };
        row.print = None;
        row.learned_from = Some(Actor(salt));
        commit.put_entry(self.row.number, row);
    }

    /// As the engine does it: the position of the head stays, or it would be given out twice.
    fn forget_entry(&mut self, key: &Key, commit: &mut Commit) {
        let left = self.entries.remove(&names(key)).map(|row| row.seq);
        let left = left.filter(|&seq| seq != self.head());
        commit.forget_entry(self.row.number, key, left);
        if let Some(left) = left {
            self.log.remove(&left);
        }
    }

    /// Another manifest of the same content replaces the first, which is forgotten before.
    fn put_manifest(&mut self, content: usize, salt: u64, commit: &mut Commit) {
        self.delete_manifest(content, commit);
        let manifest = manifest(content, salt);
        commit.put_manifest(self.row.number, &manifest);
        self.manifests.insert(hash(content), manifest);
    }

    fn delete_manifest(&mut self, content: usize, commit: &mut Commit) {
        if let Some(manifest) = self.manifests.remove(&hash(content)) {
            commit.delete_manifest(self.row.number, &hash(content), manifest.chunks().len());
        }
    }

    /// A run of chunks anywhere in the content is staged besides what is.
    fn put_stage(&mut self, content: usize, salt: u64, commit: &mut Commit) {
        let chunks = STAGED_CHUNKS[content];
        let before = self.stages.get(&hash(content)).map(|(_, set)| set.clone());
        let before = before.unwrap_or_else(|| ChunkSet::empty(chunks));
        let mut now = before.clone();
        let first = salt as usize % chunks;
        (first..chunks.min(first + 100)).for_each(|index| now.insert(index));
        let row = stage(content, salt);
        commit.put_stage(self.row.number, &hash(content), &row, &before, &now);
        self.stages.insert(hash(content), (row, now));
    }

    pub(crate) fn check(&self, store: &Store) {
        self.check_entries(store);
        self.check_log(store);
        CLASSES.into_iter().for_each(|class| self.check_wants(store, class));
        self.check_first_wants_and_peers(store);
        self.check_contents(store);
    }

    fn check_entries(&self, store: &Store) {
        let number = self.row.number;
        same(store.entries(number, None), self.entries.values().cloned(), "entries");
        for key in keys() {
            let found = store.entry(number, &key).expect("readable");
            assert_eq!(found.as_ref(), self.entries.get(&names(&key)), "{key:?}");
            let dir = names(&key);
            let inside = |path: &Names| path.len() > dir.len() && path.starts_with(&dir);
            let expected = self.entries.iter().filter(|(path, _)| inside(path));
            same(store.entries(number, Some(&key)), expected.map(|(_, row)| row.clone()), &key);
        }
    }

    fn check_log(&self, store: &Store) {
        let number = self.row.number;
        let head = self.log.last_key_value().map(|(&seq, row)| (seq, row.digest));
        let expected = head.unwrap_or((Seq::ZERO, LogDigest::EMPTY));
        assert_eq!(store.head(number).expect("a head"), expected);
        for seq in (0..=self.head().0 + 1).map(Seq) {
            let found = store.log_at(number, seq).expect("readable");
            assert_eq!(found.as_ref(), self.log.get(&seq), "at {seq}");
            let behind = self.log.range(seq.next()..).map(|(&seq, row)| (seq, row.clone()));
            same(store.log_after(number, seq), behind, seq);
        }
    }

    fn check_wants(&self, store: &Store, class: WantClass) {
        let number = self.row.number;
        let of_class = || self.wants.iter().filter(move |((c, _), _)| *c == class);
        let all = of_class().map(|(_, row)| row.clone());
        same(store.wants(number, class, None), all.clone(), class);
        same(store.wants(number, class, None).rev(), all.rev(), class);
        for key in keys() {
            let behind = of_class().filter(|((_, path), _)| *path > names(&key));
            let behind = behind.map(|(_, row)| row.clone());
            same(store.wants(number, class, Some(&key)), behind.clone(), &key);
            same(store.wants(number, class, Some(&key)).rev(), behind.rev(), &key);
        }
    }

    fn check_first_wants_and_peers(&self, store: &Store) {
        let number = self.row.number;
        for key in keys() {
            let mut rows = CLASSES.iter().map(|&class| (class, names(&key)));
            let first = rows.find_map(|at| self.wants.get(&at).map(|row| (at.0, row.clone())));
            assert_eq!(store.want(number, &key).expect("readable"), first, "{key:?}");
        }
        for node in NODES {
            let expected = self.peers.get(&node).copied().unwrap_or_default();
            assert_eq!(store.peer(number, &node).expect("readable"), expected);
        }
    }

    fn check_contents(&self, store: &Store) {
        let number = self.row.number;
        let parts = self.manifests.iter().map(|(&c, m)| (c, m.chunks().len().div_ceil(64)));
        same(store.manifests(number), parts, "manifests");
        let staged = self.stages.iter().map(|(&content, (row, _))| (content, row.clone()));
        same(store.stages(number), staged, "stages");
        for (index, chunks) in STAGED_CHUNKS.into_iter().enumerate() {
            let content = hash(index);
            let expected = self.manifests.get(&content);
            let size = expected.map_or(1, Manifest::size);
            let found = store.manifest(number, &content, size).expect("readable");
            assert_eq!(found.as_ref(), expected, "the manifest of content {index}");
            assert_eq!(store.manifest(number, &content, size + 1).expect("readable"), None);
            let found = store.stage(number, &content, chunks).expect("readable");
            assert_eq!(found.as_ref(), self.stages.get(&content), "the stage of content {index}");
        }
    }
}

/// Everything that an iterator of the store yields is expected, in that order, and nothing else.
fn same<T: PartialEq + Debug>(
    found: impl Iterator<Item = Result<T, StoreError>>,
    expected: impl Iterator<Item = T>,
    what: impl Debug,
) {
    let found: Vec<T> = found.map(|row| row.expect("readable")).collect();
    assert_eq!(found, expected.collect::<Vec<T>>(), "{what:?}");
}
