//! What becomes of states that are seen, heard of and put in place, on stores of their own: nodes
//! here exchange their logs by hand.

use highwater_core::intake::Standing;
use highwater_core::log::Checkpoint;
use highwater_core::{ContentHash, EntryKind, Mode, Mtime, Version};
use highwater_folder::{Finding, Observation};

use super::*;
use crate::share::scanner::Index;

/// Nothing is kept out.
struct Open;

impl Policy for Open {
    fn keeps_out(&self, _entry: &Entry) -> bool {
        false
    }
}

/// A node's share on a store of its own, which lives as long as this.
struct Node {
    replica: Replica,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(number: u8) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(Store::open(dir.path()).expect("a new store"));
        let replica = open(store, number, History::Continuous);
        Self { replica, dir }
    }

    /// The same node after a restart.
    fn restarted(self, number: u8, history: History) -> Self {
        let Self { replica, dir } = self;
        drop(replica);
        let store = Arc::new(Store::open(dir.path()).expect("the store again"));
        Self { replica: open(store, number, history), dir }
    }

    /// A scan sees `text` under `key`, last changed at `second`.
    fn sees(&mut self, key: &str, text: &str, second: u64) {
        let (kind, print) = (file(text), print(text));
        let now = WallTime(second * 1000);
        self.replica.observed(name(key), kind, &print, None, now).expect("observed");
        self.replica.flush().expect("durable");
    }

    fn misses(&mut self, key: &str, second: u64) {
        self.replica.gone(name(key), WallTime(second * 1000)).expect("gone");
        self.replica.flush().expect("durable");
    }

    /// Takes in everything that the other has.
    fn hears(&mut self, other: &Node) {
        let (store, share) = (other.replica.store(), other.replica.number());
        for log in store.log_after(share, Seq::ZERO) {
            let (seq, log) = log.expect("a row");
            let row = store.entry(share, &log.key).expect("a row");
            // What has moved on comes with its later position.
            let Some(row) = row.filter(|row| row.seq == seq) else { continue };
            let from = Some(other.replica.actor);
            self.replica.take_in(row.entry, from, &Open).expect("taken in");
        }
        self.replica.flush().expect("durable");
    }

    /// Puts everything in place that is wanted.
    fn applies(&mut self) {
        for class in [WantClass::Live, WantClass::Tombstone] {
            let wants: Vec<WantRow> = self
                .replica
                .store()
                .wants(self.replica.number(), class, None)
                .map(|want| want.expect("a row"))
                .collect();
            for want in wants {
                let print = want.entry.kind.is_live().then(|| print("placed"));
                self.replica.applied(&want, print.as_ref()).expect("applied");
            }
        }
        self.replica.flush().expect("durable");
    }

    /// All live entries: key, content, version.
    fn live(&self) -> Vec<(String, ContentHash, Version)> {
        let entries = self.replica.store().entries(self.replica.number(), None);
        let entries = entries.map(|row| row.expect("a row").entry);
        let live = entries.filter(|entry| entry.kind.is_live());
        live.map(|e| (e.key.to_string(), e.kind.content().expect("a file").0, e.version)).collect()
    }

    fn contents(&self) -> Vec<ContentHash> {
        let mut contents: Vec<_> = self.live().into_iter().map(|(_, content, _)| content).collect();
        contents.sort_unstable();
        contents
    }

    fn wants(&mut self, key: &str) -> Option<EntryKind> {
        let want = self.replica.want(&name(key)).expect("readable");
        want.map(|(_, want)| want.entry.kind)
    }
}

fn open(store: Arc<Store>, number: u8, history: History) -> Replica {
    let row =
        ShareRow { number: ShareNumber(1), epoch: Epoch([number; 16]), generation: 1, raising: 1 };
    let (node, share) = (NodeId::from_bytes([number; 32]), "docs".parse().expect("a name"));
    Replica::open(store, node, share, row, history, WallTime(0)).expect("a replica")
}

fn name(key: &str) -> Key {
    key.parse().expect("a key")
}

fn file(text: &str) -> EntryKind {
    EntryKind::File {
        size: text.len() as u64,
        content: hash(text),
        mode: Mode::new(0o644),
        // Long before every change in these tests, so that stamps come from the clock.
        mtime: Mtime { seconds: 1, nanos: 0 },
    }
}

fn hash(text: &str) -> ContentHash {
    ContentHash::of(text.as_bytes())
}

fn print(text: &str) -> StatPrint {
    let time = Mtime { seconds: 1, nanos: 0 };
    StatPrint { ino: 7, size: text.len() as u64, mtime: time, ctime: time, mode: Mode::new(0o644) }
}

fn sorted<const N: usize>(texts: [&str; N]) -> Vec<ContentHash> {
    let mut hashes: Vec<_> = texts.into_iter().map(hash).collect();
    hashes.sort_unstable();
    hashes
}

/// Two nodes that agree on `plan.txt` and then change it apart.
fn apart() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "first", 10);
    b.hears(&a);
    b.applies();
    (a, b)
}

/// Lets both take in and put in place what the other has, until neither wants anything.
fn meet(a: &mut Node, b: &mut Node) {
    for _ in 0..3 {
        a.hears(b);
        a.applies();
        b.hears(a);
        b.applies();
    }
    assert_eq!((a.replica.wanted().entries(), b.replica.wanted().entries()), (0, 0));
    assert_eq!(a.live(), b.live());
}

#[test]
fn what_is_seen_unchanged_is_not_logged_again() {
    let mut a = Node::new(1);
    a.sees("plan.txt", "first", 10);
    let head = a.replica.head();
    a.sees("plan.txt", "first", 20);
    assert_eq!(a.replica.head(), head);
    a.sees("plan.txt", "second", 30);
    assert_eq!(a.replica.head(), head.next());
}

#[test]
fn what_a_peer_has_is_wanted_until_it_is_in_place() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "first", 10);
    b.hears(&a);
    assert_eq!(b.wants("plan.txt"), Some(file("first")));
    assert_eq!((b.live().len(), b.replica.head()), (0, Seq::ZERO));
    b.applies();
    assert_eq!(b.wants("plan.txt"), None);
    assert_eq!(b.live(), a.live());
    b.hears(&a);
    assert_eq!(b.replica.wanted(), Wanted::default());
}

#[test]
fn what_is_wanted_and_found_in_place_is_the_peers_and_no_edit() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "first", 10);
    b.hears(&a);
    // Killed after the rename and before the record: the scan finds it.
    let mut b = b.restarted(2, History::Continuous);
    assert_eq!(b.replica.wanted().live, 1);
    b.sees("plan.txt", "first", 20);
    assert_eq!(b.live(), a.live());
    assert_eq!(b.replica.wanted(), Wanted::default());
}

#[test]
fn equal_files_that_meet_cost_nothing() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "same", 10);
    b.sees("plan.txt", "same", 20);
    b.hears(&a);
    assert_eq!(b.replica.wanted(), Wanted::default());
    meet(&mut a, &mut b);
    assert_eq!(a.live().len(), 1);
}

#[test]
fn both_sides_of_a_conflict_stay_and_every_node_makes_the_same_of_it() {
    let (mut a, mut b) = apart();
    a.sees("plan.txt", "of a", 20);
    b.sees("plan.txt", "of b", 30);
    let mut c = Node::new(3);
    c.hears(&a);
    c.applies();
    c.hears(&b);
    c.applies();
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["of a", "of b"]));
    meet(&mut a, &mut c);
    assert_eq!(a.live().len(), 2);
    assert_eq!(c.live(), b.live());
    assert_eq!(a.replica.totals().conflicts, 1);
}

/// A node that wanted the winner may have given it up meanwhile. And the loser's holder replaces it as
/// soon as a version includes it, which may be before its bytes are kept in the copy.
#[test]
fn the_winner_of_a_conflict_is_said_again_without_what_is_not_kept_yet() {
    let (mut a, mut b) = apart();
    a.sees("plan.txt", "the winner", 30);
    b.sees("plan.txt", "the loser", 20);
    let (said, loser) = (a.replica.head(), b.live()[0].2.clone());
    a.hears(&b);
    assert_eq!(a.replica.head(), said.next());
    let (_, content, winner) = a.live().remove(0);
    assert_eq!(content, hash("the winner"));
    assert!(!winner.includes(&loser), "its copy is only wanted: {:?}", a.replica.wanted());
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["the loser", "the winner"]));
}

#[test]
fn an_edit_beats_a_concurrent_delete_whoever_hears_first() {
    for edit_at in [15, 25] {
        let (mut a, mut b) = apart();
        a.misses("plan.txt", 20);
        b.sees("plan.txt", "edited", edit_at);
        meet(&mut a, &mut b);
        assert_eq!(a.contents(), sorted(["edited"]));
    }
}

#[test]
fn a_delete_goes_on_and_stays() {
    let (mut a, mut b) = apart();
    b.misses("plan.txt", 20);
    meet(&mut a, &mut b);
    assert_eq!(a.live().len(), 0);
    let mut late = Node::new(3);
    late.hears(&a);
    assert_eq!(late.replica.wanted(), Wanted::default());
}

#[test]
fn a_local_edit_of_what_is_to_be_replaced_is_a_conflict_and_no_loss() {
    let (mut a, mut b) = apart();
    a.sees("plan.txt", "of a", 20);
    b.hears(&a);
    // Before it is put in place, somebody edits the file.
    b.sees("plan.txt", "of b", 30);
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["of a", "of b"]));
}

#[test]
fn a_copy_whose_source_was_replaced_knowingly_is_waited_for_by_nobody() {
    let (mut a, mut b) = apart();
    a.sees("plan.txt", "of a", 20);
    b.sees("plan.txt", "of b", 30);
    a.hears(&b);
    b.hears(&a);
    // Both are to make a copy of what A wrote; A's user writes on before it is made.
    a.sees("plan.txt", "of a, rewritten", 40);
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["of a, rewritten", "of b"]));
}

#[test]
fn what_was_lost_without_being_deleted_is_wanted_back_as_it_was() {
    let (mut a, b) = apart();
    let before = a.live();
    let mut b = b.restarted(2, History::FilesRestored);
    assert!(b.replica.lost(&name("plan.txt")).expect("lost"));
    b.replica.flush().expect("durable");
    assert_eq!(b.wants("plan.txt"), Some(file("first")));
    b.applies();
    assert_eq!(b.live(), before);
    meet(&mut a, &mut b);
    assert_eq!(a.live(), before);
}

/// A store from before a file had come still wanted its first state. The scan found the second in the
/// folder, and took the two for rivals: a copy was made of what nobody had any more.
#[test]
fn what_an_older_store_wants_is_no_rival_of_what_has_come_since() {
    let (mut a, mut b) = apart();
    a.sees("notes.txt", "first", 20);
    b.hears(&a);
    assert_eq!(b.wants("notes.txt"), Some(file("first")));
    a.sees("notes.txt", "second", 30);
    let mut b = b.restarted(2, History::StoreRestored);
    b.replica.forget_peers().expect("forgotten");
    b.replica.forget_wants().expect("forgotten");
    b.sees("notes.txt", "second", 40);
    b.replica.history = History::Continuous;
    meet(&mut a, &mut b);
    assert_eq!(b.contents(), sorted(["first", "second"]), "beside plan.txt there is one file");
    assert_eq!(a.contents(), b.contents());
}

/// A folder was put back and the only copy of its latest state with it. Both nodes wanted that state
/// for ever, and it hid from each what the other still had.
#[test]
fn a_state_that_nobody_has_hides_no_older_one() {
    let (mut a, mut b) = apart();
    a.sees("plan.txt", "lost", 20);
    b.hears(&a);
    let mut a = a.restarted(1, History::FilesRestored);
    a.replica.lost(&name("plan.txt")).expect("lost");
    a.replica.take_new_epoch(Epoch([99; 16]), Seq::ZERO).expect("a new epoch");
    a.hears(&b);
    assert_eq!(a.wants("plan.txt"), Some(file("lost")), "it was not given up yet");
    for node in [&mut a, &mut b] {
        node.replica.give_up(&name("plan.txt")).expect("given up");
    }
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["first"]));
    assert_eq!(b.replica.lost_states().collect::<Vec<_>>(), [&name("plan.txt")]);
    b.sees("plan.txt", "written anew", 30);
    assert_eq!(b.replica.lost_states().next(), None);
}

/// The peer that announced a state first has lost it since; another has it, and says so.
#[test]
fn what_is_wanted_is_learned_from_whoever_said_last_that_he_has_it() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "first", 10);
    b.hears(&a);
    b.applies();
    let mut c = Node::new(3);
    c.hears(&a);
    c.hears(&b);
    let (_, want) = c.replica.want(&name("plan.txt")).expect("readable").expect("wanted");
    assert_eq!(want.learned_from, Some(b.replica.actor));
}

/// Whoever is listed again later must be read from the start like the others.
#[test]
fn a_peer_that_is_not_listed_just_now_is_forgotten_with_the_others() {
    let (mut a, peer) = (Node::new(1), NodeId::from_bytes([9; 32]));
    a.sees("plan.txt", "first", 10);
    let pushed = Some(a.replica.checkpoint());
    a.replica.put_peer(&peer, PeerRow { pulled: pushed, pushed });
    assert_eq!(a.replica.forget_peers().expect("forgotten"), Seq(1));
    assert_eq!(a.replica.peer(&peer).expect("readable"), PeerRow::default());
}

/// A disk image is put back with the folder, the store and the marker in it: nothing here tells of
/// it, and the next change is given a position that another change once had.
#[test]
fn an_edit_after_a_whole_machine_was_restored_is_not_lost() {
    let (mut a, mut b) = apart();
    let known = a.replica.head();
    let image = tempfile::tempdir().expect("a temporary directory");
    copy_dir(a.dir.path(), image.path());
    a.sees("plan.txt", "before the restore", 20);
    a.sees("plan.txt", "before the restore, again", 21);
    b.hears(&a);
    b.applies();
    drop(a);
    let store = Arc::new(Store::open(image.path()).expect("the image"));
    let mut a = Node { replica: open(store, 1, History::Continuous), dir: image };
    a.sees("plan.txt", "after the restore", 30);
    a.replica.take_new_epoch(Epoch([99; 16]), known).expect("a new epoch");
    meet(&mut a, &mut b);
    assert_eq!(a.contents(), sorted(["before the restore, again", "after the restore"]));
}

/// The same, and one file was edited so often since that no entry stands any more where the peer had
/// read to. What stood there is told by its digest; without it nothing is believed beyond what was
/// known before.
#[test]
fn edits_after_a_restore_do_not_hide_behind_the_positions_that_they_left() {
    let (mut a, peer) = (Node::new(1), NodeId::from_bytes([2; 32]));
    a.sees("plan.txt", "first", 10);
    let image = tempfile::tempdir().expect("a temporary directory");
    copy_dir(a.dir.path(), image.path());
    for edit in 0..3 {
        a.sees("plan.txt", &format!("before the restore, {edit}"), 20 + edit);
    }
    let read = a.replica.checkpoint();
    a.sees("plan.txt", "before the restore, and never read", 24);
    assert_eq!(judged(&mut a, &peer, read), Standing::From(read.seq), "its own history");
    drop(a);
    let store = Arc::new(Store::open(image.path()).expect("the image"));
    let mut a = Node { replica: open(store, 1, History::Continuous), dir: image };
    for edit in 0..4 {
        a.sees("plan.txt", &format!("after the restore, {edit}"), 30 + edit);
    }
    assert!(a.replica.store().log_at(a.replica.number(), read.seq).expect("readable").is_none());
    assert_eq!(judged(&mut a, &peer, read), Standing::RolledBack);
    // So many edits that the digest is gone too.
    for edit in 0..1100 {
        a.sees("plan.txt", &format!("after the restore, {edit}"), 40 + edit);
    }
    assert_eq!(judged(&mut a, &peer, read), Standing::Unproven(read.seq));
    a.replica.put_peer(&peer, PeerRow { pulled: None, pushed: Some(read) });
    assert_eq!(judged(&mut a, &peer, read), Standing::From(read.seq), "it was told before");
}

/// A node's store was lost, another history begun, and then the old store put back: the peer speaks
/// of a history that this store has never heard of.
#[test]
fn a_history_that_came_after_a_backup_is_told_from_those_before() {
    let (mut a, peer) = (Node::new(1), NodeId::from_bytes([2; 32]));
    a.sees("plan.txt", "first", 10);
    let later = Checkpoint { epoch: Epoch([77; 16]), ..a.replica.checkpoint() };
    let before = a.replica.checkpoint();
    assert_eq!(judged(&mut a, &peer, later), Standing::OtherHistory(later.epoch));
    a.replica.remember_past(later.epoch).expect("remembered");
    a.replica.take_new_epoch(Epoch([99; 16]), Seq::ZERO).expect("a new epoch");
    for over in [before, later] {
        assert_eq!(judged(&mut a, &peer, over), Standing::FromStart, "{over:?}");
    }
    let past = a.replica.store().past(a.replica.number()).expect("readable").expect("on record");
    assert_eq!(past.epochs, [later.epoch, before.epoch]);
}

/// A peer that was restored itself has forgotten how far it had read, and tells all that it has: this
/// node's own changes among it, which a restored store may have made otherwise.
#[test]
fn a_change_that_comes_back_otherwise_than_it_was_made_tells_of_a_restore() {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.sees("plan.txt", "first", 10);
    let image = tempfile::tempdir().expect("a temporary directory");
    copy_dir(a.dir.path(), image.path());
    a.sees("plan.txt", "before the restore", 20);
    b.hears(&a);
    b.applies();
    let told = b.replica.entry(&name("plan.txt")).expect("readable").expect("on record").entry;
    assert!(!a.replica.is_contradicted_by(&told).expect("readable"), "its own history");
    a.sees("plan.txt", "later", 21);
    assert!(!a.replica.is_contradicted_by(&told).expect("readable"), "left since");
    drop(a);
    let store = Arc::new(Store::open(image.path()).expect("the image"));
    let mut a = Node { replica: open(store, 1, History::Continuous), dir: image };
    a.sees("plan.txt", "after the restore", 30);
    assert!(a.replica.is_contradicted_by(&told).expect("readable"));
    a.sees("plan.txt", "after the restore, again", 31);
    assert!(a.replica.is_contradicted_by(&told).expect("readable"), "left since");
}

fn judged(node: &mut Node, peer: &NodeId, pulled: Checkpoint) -> Standing {
    node.replica.judge(peer, Some(pulled)).expect("readable")
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir(&target).expect("a directory");
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

#[test]
fn a_restart_finds_everything_as_it_was() {
    let (mut a, mut b) = apart();
    a.sees("a/b", "more", 20);
    a.misses("plan.txt", 30);
    b.hears(&a);
    let (head, totals, wanted) = (b.replica.head(), b.replica.totals(), b.replica.wanted());
    assert_eq!((wanted.live, wanted.tombstones), (1, 1));
    let b = b.restarted(2, History::Continuous);
    assert_eq!((b.replica.head(), b.replica.totals(), b.replica.wanted()), (head, totals, wanted));
}

/// Each row: what a scan finds under a new name, and whether only the name can be lost.
#[test]
fn a_file_on_record_under_another_name_in_the_same_state_was_made_durable_then() {
    let mut node = Node::new(1);
    node.sees("old/a", "text", 1);
    let (store, share) = (Arc::clone(node.replica.store()), node.replica.number());
    let index = Index { store, share, catalogue: Arc::clone(node.replica.catalogue()) };
    let same = print("text");
    let later = Mtime { seconds: same.ctime.seconds + 1, ..same.ctime };
    let rows = [
        ("its directory was renamed", file("text"), same, true),
        ("it was renamed, or written to", file("text"), StatPrint { ctime: later, ..same }, false),
        ("it is a copy", file("text"), StatPrint { ino: same.ino + 1, ..same }, false),
        ("it was written to without a trace", file("other"), same, false),
    ];
    for (what, kind, print, is_old) in rows {
        let seen = Observation { key: name("new/a"), kind, print, manifest: None };
        let found = [Finding::Changed(seen)];
        let (new, names) = index.undurable(&found);
        assert_eq!((new.len(), names.len()), (usize::from(!is_old), usize::from(is_old)), "{what}");
    }
    let found = [Finding::Touched { key: name("old/a"), print: same }];
    assert_eq!(index.undurable(&found).0.len(), 1, "it was touched");
}
