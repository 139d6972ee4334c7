//! A share in a temporary directory, with an index that believes whatever a scan reports.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use highwater_core::{ContentHash, EntryKind, Key, Mode, Mtime, NodeId};
use highwater_folder::{
    Expect, Finding, IgnoreRules, Known, KnownEntry, Marker, Placed, Placement, Problem, Root,
    ScanError, ScanProgress, Scope, Slot, scan,
};
use tempfile::TempDir;

pub(crate) struct Share {
    pub(crate) dir: TempDir,
    pub(crate) root: Arc<Root>,
    pub(crate) index: Index,
    pub(crate) rules: IgnoreRules,
    pub(crate) files_hashed: u64,
    slots: u64,
}

#[derive(Default)]
pub(crate) struct Index(pub(crate) BTreeMap<Key, KnownEntry>);

impl Known for Index {
    fn get(&self, key: &Key) -> Option<KnownEntry> {
        self.0.get(key).cloned()
    }

    fn under(&self, dir: Option<&Key>) -> Box<dyn Iterator<Item = KnownEntry> + '_> {
        let dir = dir.cloned();
        let inside = move |key: &Key| dir.as_ref().is_none_or(|dir| key.is_inside(dir));
        Box::new(self.0.iter().filter(move |(key, _)| inside(key)).map(|(_, e)| e.clone()))
    }
}

pub(crate) fn key(path: &str) -> Key {
    path.parse().expect("a key")
}

pub(crate) fn marker() -> Marker {
    let share = "docs".parse().expect("a share name");
    Marker { share, node: NodeId::from_bytes([7; 32]), generation: 1 }
}

/// A modification time that no test file has by itself.
pub(crate) const OLD: Mtime = Mtime { seconds: 1_000_000_000, nanos: 123_456_789 };

impl Share {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let root = Arc::new(Root::create(dir.path(), &marker()).expect("a root"));
        let (index, rules) = (Index::default(), IgnoreRules::none());
        Self { dir, root, index, rules, files_hashed: 0, slots: 0 }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        std::fs::write(path, content).expect("written");
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).expect("readable")
    }

    pub(crate) fn try_scan(&mut self, scope: &Scope) -> Result<Vec<Finding>, ScanError> {
        let mut findings = Vec::new();
        let progress = ScanProgress::default();
        let summary =
            scan(&self.root, scope, &self.rules, &self.index, &progress, &mut |finding| {
                findings.push(finding);
                ControlFlow::Continue(())
            })?;
        let all = summary.changed + summary.touched + summary.gone + summary.problems;
        assert_eq!(all, findings.len() as u64);
        self.files_hashed = progress.files_hashed.load(Ordering::Relaxed);
        self.believe(&findings);
        Ok(findings)
    }

    pub(crate) fn scan(&mut self) -> Vec<Finding> {
        self.try_scan(&Scope::Whole).expect("a scan")
    }

    pub(crate) fn scan_paths(&mut self, paths: &[&str]) -> Vec<Finding> {
        let keys = paths.iter().map(|path| key(path)).collect();
        self.try_scan(&Scope::Paths(keys)).expect("a scan")
    }

    fn believe(&mut self, findings: &[Finding]) {
        for finding in findings {
            match finding {
                Finding::Changed(seen) => {
                    let (key, kind) = (seen.key.clone(), seen.kind.clone());
                    let entry = KnownEntry { key: key.clone(), kind, print: Some(seen.print) };
                    self.index.0.insert(key, entry);
                }
                Finding::Touched { key, print } => {
                    self.index.0.get_mut(key).expect("known").print = Some(*print);
                }
                Finding::Gone(key) => {
                    self.index.0.remove(key).expect("known");
                }
                Finding::Altered(_) | Finding::Problem(_) => {}
            }
        }
    }

    /// What the index says of a path, as an expectation.
    pub(crate) fn expect(&self, path: &str) -> Expect {
        match self.index.get(&key(path)) {
            Some(KnownEntry { kind, print: Some(print), .. }) => Expect::Present { kind, print },
            _ => Expect::Absent,
        }
    }

    /// Stages a content and places it.
    pub(crate) fn place_file(&mut self, path: &str, content: &str, expect: Expect) -> Placed {
        let placement = self.file(path, content, expect);
        self.root.place(&placement)
    }

    pub(crate) fn file(&mut self, path: &str, content: &str, expect: Expect) -> Placement {
        let slot = self.stage(content);
        let kind = file_kind(content, 0o640);
        Placement { key: key(path), kind, slot: Some(slot), expect }
    }

    pub(crate) fn stage(&mut self, content: &str) -> Slot {
        self.slots += 1;
        let slot = Slot::fresh(self.slots);
        let staged = self.root.stage().create(&slot, content.len() as u64).expect("a slot");
        staged.write_at(0, content.as_bytes()).expect("written");
        slot
    }

    pub(crate) fn place(&self, path: &str, kind: EntryKind, expect: Expect) -> Placed {
        self.root.place(&Placement { key: key(path), kind, slot: None, expect })
    }

    pub(crate) fn staged(&self) -> Vec<Slot> {
        self.root.stage().list().expect("a list")
    }

    pub(crate) fn kept(&self) -> Vec<PathBuf> {
        let kept = std::fs::read_dir(self.path(".highwater/kept")).expect("a directory");
        kept.map(|entry| entry.expect("an entry").path()).collect()
    }
}

pub(crate) fn file_kind(content: &str, mode: u32) -> EntryKind {
    let content_hash = ContentHash::of(content.as_bytes());
    let (size, mode) = (content.len() as u64, Mode::new(mode));
    EntryKind::File { size, content: content_hash, mode, mtime: OLD }
}

pub(crate) fn changed(findings: &[Finding]) -> Vec<&str> {
    let changed = findings.iter().filter_map(|finding| match finding {
        Finding::Changed(seen) => Some(seen.key.as_str()),
        _ => None,
    });
    changed.collect()
}

pub(crate) fn gone(findings: &[Finding]) -> Vec<&str> {
    let gone = findings.iter().filter_map(|finding| match finding {
        Finding::Gone(key) => Some(key.as_str()),
        _ => None,
    });
    gone.collect()
}

pub(crate) fn problems(findings: &[Finding]) -> Vec<&Problem> {
    let problems = findings.iter().filter_map(|finding| match finding {
        Finding::Problem(problem) => Some(problem),
        _ => None,
    });
    problems.collect()
}
