//! Taking in a peer's log: which batch fits, and what an offer means for the checkpoint.

use crate::log::{Checkpoint, Epoch, LogDigest, Seq};
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
}

/// Judges the checkpoint that a peer holds in our log. `digest_at` is our digest at a position, or
/// `None` where compaction has removed the record.
pub fn judge(
    pulled: Option<Checkpoint>,
    epoch: Epoch,
    head: Seq,
    digest_at: impl FnOnce(Seq) -> Option<LogDigest>,
) -> Standing {
    match pulled {
        Some(pulled) if pulled.epoch == epoch => {
            let forked = || digest_at(pulled.seq).is_some_and(|digest| digest != pulled.digest);
            if pulled.seq > head || (pulled.seq > Seq::ZERO && forked()) {
                Standing::RolledBack
            } else {
                Standing::From(pulled.seq)
            }
        }
        _ => Standing::FromStart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_hole_in_the_log_is_an_error_and_never_silence() {
        assert_eq!(advance(at(5), &batch(EPOCH, 5, 9)), Ok(at(9)));
        let (expected, found) = (Seq(5), Seq(6));
        assert_eq!(advance(at(5), &batch(EPOCH, 6, 9)), Err(IntakeError::Gap { expected, found }));
        assert!(advance(at(5), &batch(Epoch([2; 16]), 5, 9)).is_err());
    }

    #[test]
    fn a_peer_that_knows_more_of_our_log_than_we_do_tells_of_a_rollback() {
        let same = |_| Some(DIGEST);
        let other = |_| Some(LogDigest([6; 16]));
        assert_eq!(judge(Some(at(9)), EPOCH, Seq(9), same), Standing::From(Seq(9)));
        assert_eq!(judge(Some(at(9)), EPOCH, Seq(8), same), Standing::RolledBack);
        assert_eq!(judge(Some(at(9)), EPOCH, Seq(9), other), Standing::RolledBack);
        assert_eq!(judge(Some(at(9)), EPOCH, Seq(12), |_| None), Standing::From(Seq(9)));
        assert_eq!(judge(Some(at(9)), Epoch([3; 16]), Seq(0), same), Standing::FromStart);
        assert_eq!(judge(None, EPOCH, Seq(9), same), Standing::FromStart);
    }
}
