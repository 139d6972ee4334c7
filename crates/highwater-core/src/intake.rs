//! Taking in a peer's log: which batch fits, and what an offer means for the checkpoint.

use crate::entry::Entry;
use crate::log::{Actor, Checkpoint, Epoch, LogDigest, Seq};
use crate::wire::{Batch, Offer};

/// Why a batch cannot be taken in. The link is closed; the next one starts from the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IntakeError {
    /// It is of another history than the one offered.
    #[error("the batch is of epoch {found:?}, the offer was of {expected:?}")]
    OtherEpoch {
        /// What was offered.
        expected: Epoch,
        /// What came.
        found: Epoch,
    },
    /// It does not begin where the last one ended: something in between is missing.
    #[error("the batch begins behind {found}, the checkpoint is at {expected}")]
    Gap {
        /// Where it had to begin.
        expected: Seq,
        /// Where it begins.
        found: Seq,
    },
}

/// Where to go on in the log of a peer that offers it, given our checkpoint. Another epoch is
/// another history: it is read from its start.
pub fn resume_at(checkpoint: Option<Checkpoint>, offer: &Offer) -> Checkpoint {
    match checkpoint {
        Some(checkpoint) if checkpoint.epoch == offer.epoch => checkpoint,
        _ => Checkpoint::start(offer.epoch),
    }
}

/// The checkpoint after `batch`, if it follows on from `at`.
///
/// # Errors
/// When it does not.
pub fn advance(at: Checkpoint, batch: &Batch) -> Result<Checkpoint, IntakeError> {
    if batch.epoch != at.epoch {
        return Err(IntakeError::OtherEpoch { expected: at.epoch, found: batch.epoch });
    }
    if batch.after != at.seq {
        return Err(IntakeError::Gap { expected: at.seq, found: batch.after });
    }
    Ok(Checkpoint { epoch: at.epoch, seq: batch.upto, digest: batch.digest })
}

/// What a peer's checkpoint in our log says about our log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It never met this history: it gets everything.
    FromStart,
    /// It has taken in everything up to here.
    From(Seq),
    /// It has seen more of this history than there is, or another one under the same name: this
    /// store was restored from an older copy, and must take a new epoch.
    RolledBack,
    /// It has taken in everything up to here, or something else of the same length: this store does
    /// not know any more what stood there, and was never told that the peer has it. If it may have
    /// been restored from an older copy, it must take a new epoch.
    Unproven(Seq),
    /// It has read in a history of this node that is unknown here: one before this store was begun,
    /// or one that came after this copy of it was made. If that is possible, it must take a new
    /// epoch.
    OtherHistory(Epoch),
}

/// What a node knows of its own log when it judges a peer's checkpoint in it.
#[derive(Clone, Copy, Debug)]
pub struct OwnLog<'a> {
    /// Its current history.
    pub epoch: Epoch,
    /// Its last position.
    pub head: Seq,
    /// How far this peer was known to be in this history when it was last recorded.
    pub acked: Seq,
    /// The histories before.
    pub past: &'a [Epoch],
}

/// Judges the checkpoint that a peer holds in our log. `digest_at` is our digest at a position, or
/// `None` where compaction has removed the record.
pub fn judge(
    pulled: Option<Checkpoint>,
    own: OwnLog<'_>,
    digest_at: impl FnOnce(Seq) -> Option<LogDigest>,
) -> Standing {
    let Some(pulled) = pulled else { return Standing::FromStart };
    if pulled.epoch != own.epoch {
        let is_past = own.past.contains(&pulled.epoch);
        return if is_past { Standing::FromStart } else { Standing::OtherHistory(pulled.epoch) };
    }
    if pulled.seq == Seq::ZERO {
        return Standing::From(pulled.seq);
    }
    if pulled.seq > own.head {
        return Standing::RolledBack;
    }
    match digest_at(pulled.seq) {
        Some(digest) if digest != pulled.digest => Standing::RolledBack,
        None if pulled.seq > own.acked => Standing::Unproven(pulled.seq),
        _ => Standing::From(pulled.seq),
    }
}

/// Whether `said` cannot have come of `made`, what `actor` has in its log under the position of its last
/// change that `said` includes: another change had that name, before a store was put back.
///
/// Whatever includes a change includes all that the change was made on, under the same key, and what has
/// its very version is it. What includes more is the change together with what it met, and may be in
/// the state of that: an older one of the same node too, which won over the node's own delete
/// (simulation 10000385).
pub fn contradicts(said: &Entry, made: &Entry, actor: Actor) -> bool {
    said.key != made.key
        || said.version.last_of(actor) != made.version.last_of(actor)
        || !said.version.includes(&made.version)
        || (said.version == made.version && said.kind != made.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::{Hlc, Mtime, WallTime};
    use crate::content::ContentHash;
    use crate::entry::{EntryKind, Mode};
    use crate::id::NodeTag;
    use crate::merge::{Merge, merge};
    use crate::version::Version;

    const EPOCH: Epoch = Epoch([1; 16]);
    const DIGEST: LogDigest = LogDigest([5; 16]);

    fn at(seq: u64) -> Checkpoint {
        Checkpoint { epoch: EPOCH, seq: Seq(seq), digest: DIGEST }
    }

    fn batch(epoch: Epoch, after: u64, upto: u64) -> Batch {
        Batch {
            share: "docs".parse().expect("name"),
            epoch,
            after: Seq(after),
            upto: Seq(upto),
            digest: DIGEST,
            head: Seq(upto),
            entries: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_counts_in_its_own_history_alone() {
        let share = "docs".parse().expect("name");
        let offer = |epoch| Offer { share, epoch, head: Seq(9), pulled: None };
        let own = offer(EPOCH);
        assert_eq!(resume_at(Some(at(5)), &own), at(5));
        let other = Offer { epoch: Epoch([2; 16]), ..own };
        assert_eq!(resume_at(Some(at(5)), &other), Checkpoint::start(other.epoch));
        assert_eq!(resume_at(None, &other), Checkpoint::start(other.epoch));
    }

    #[test]
    fn a_hole_in_the_log_is_an_error_and_never_silence() {
        assert_eq!(advance(at(5), &batch(EPOCH, 5, 9)), Ok(at(9)));
        let (expected, found) = (Seq(5), Seq(6));
        assert_eq!(advance(at(5), &batch(EPOCH, 6, 9)), Err(IntakeError::Gap { expected, found }));
        let again = IntakeError::Gap { expected, found: Seq(4) };
        assert_eq!(advance(at(5), &batch(EPOCH, 4, 9)), Err(again), "it goes back");
        assert!(advance(at(5), &batch(Epoch([2; 16]), 5, 9)).is_err());
    }

    #[test]
    fn a_peer_that_knows_more_of_our_log_than_we_do_tells_of_a_rollback() {
        let same = |_| Some(DIGEST);
        let other = |_| Some(LogDigest([6; 16]));
        let own = |head| OwnLog { epoch: EPOCH, head: Seq(head), acked: Seq(4), past: &[] };
        assert_eq!(judge(Some(at(9)), own(9), same), Standing::From(Seq(9)));
        assert_eq!(judge(Some(at(9)), own(8), same), Standing::RolledBack);
        assert_eq!(judge(Some(at(9)), own(9), other), Standing::RolledBack);
        assert_eq!(judge(None, own(9), same), Standing::FromStart);
    }

    #[test]
    fn what_a_peer_has_read_is_believed_as_far_as_it_was_told_before() {
        let own = |acked| OwnLog { epoch: EPOCH, head: Seq(12), acked: Seq(acked), past: &[] };
        assert_eq!(judge(Some(at(9)), own(9), |_| None), Standing::From(Seq(9)));
        assert_eq!(judge(Some(at(9)), own(8), |_| None), Standing::Unproven(Seq(9)));
        assert_eq!(judge(Some(at(0)), own(0), |_| None), Standing::From(Seq(0)));
    }

    #[test]
    fn a_history_that_nobody_here_remembers_is_told_from_one_that_is_over() {
        let (over, unknown) = (Epoch([3; 16]), Epoch([4; 16]));
        let own = OwnLog { epoch: EPOCH, head: Seq(0), acked: Seq(0), past: &[over] };
        let in_epoch = |epoch| Some(Checkpoint { epoch, ..at(9) });
        assert_eq!(judge(in_epoch(over), own, |_| None), Standing::FromStart);
        assert_eq!(judge(in_epoch(unknown), own, |_| None), Standing::OtherHistory(unknown));
    }

    fn file(text: &str) -> EntryKind {
        EntryKind::File {
            size: text.len() as u64,
            content: ContentHash::of(text.as_bytes()),
            mode: Mode::new(0o644),
            mtime: Mtime { seconds: 0, nanos: 0 },
        }
    }

    fn entry(kind: EntryKind, version: &[(u64, u64)], millis: u64) -> Entry {
        Entry {
            key: "plan.txt".parse().expect("key"),
            kind,
            version: Version::from_counters(version.iter().map(|&(a, s)| (Actor(a), Seq(s)))),
            stamp: Hlc::tick(WallTime(millis), None),
            author: NodeTag::from_bytes([1; 5]),
        }
    }

    #[test]
    fn a_change_under_the_name_of_a_lost_one_contradicts_it() {
        let lost = entry(file("before"), &[(1, 9), (2, 3)], 10);
        let contradicts = |made: &Entry| contradicts(&lost, made, Actor(1));
        assert!(!contradicts(&lost));
        assert!(contradicts(&entry(file("after"), &[(1, 9), (2, 3)], 20)), "another state");
        assert!(
            contradicts(&entry(file("before"), &[(1, 9), (2, 4)], 10)),
            "made on something else"
        );
        assert!(
            contradicts(&entry(file("before"), &[(2, 3)], 10)),
            "no change of this node at all"
        );
        let elsewhere = Entry { key: "todo.txt".parse().expect("key"), ..lost.clone() };
        assert!(contradicts(&elsewhere));
    }

    /// Node 1 wrote a file and deleted it; in between it met another's of that name, and won.
    #[test]
    fn an_older_state_that_won_over_a_later_change_does_not_contradict_it() {
        let (written, other) = (entry(file("a"), &[(1, 5)], 20), entry(file("b"), &[(2, 3)], 10));
        let deleted = entry(EntryKind::Tombstone, &[(1, 9)], 30);
        let resolved = |ours: &Entry, theirs: &Entry| match merge(Some(ours), theirs) {
            Merge::Both(resolution) => resolution.merged,
            other => panic!("not concurrent: {other:?}"),
        };
        let won = resolved(&resolved(&written, &other), &deleted);
        assert_eq!((&won.kind, won.author), (&written.kind, written.author));
        assert!(!contradicts(&won, &deleted, Actor(1)));
    }
}
