//! Passing on questions of checks between two neighbours that have no link with each other.
//!
//! This node passes on only what is about a share that it lists for both, over the links that it has
//! anyway, and remembers nothing of it. Whoever asks has a few such questions open at a time
//! (`talk.rs`), and each ends within the time that any answer is waited for.

use std::sync::Arc;

use highwater_core::check::{CheckAnswer, CheckRefusal};
use highwater_core::way::Onward;
use highwater_core::{NodeId, ShareName};

use super::member::Reach;
use super::talk::Silence;
use crate::serve::Desks;

/// Passes on what `asker` has asked, and brings back the answer.
pub(crate) async fn pass_on(
    reach: &Arc<dyn Reach>,
    desks: &Desks,
    asker: NodeId,
    share: ShareName,
    onward: Onward,
) -> CheckAnswer {
    let refused = CheckAnswer::Refused;
    let Some((next, ask)) = onward.step(reach.own(), asker) else {
        return refused(CheckRefusal::NoWay);
    };
    let both = desks.open_to(&share, &asker).is_some() && desks.open_to(&share, &next).is_some();
    if !both {
        return refused(CheckRefusal::NotOpen);
    }
    let Some((talk, control)) = reach.link(&next) else { return refused(CheckRefusal::NoWay) };
    match talk.ask(&control, &share, ask).await {
        Ok((answer, _)) => answer,
        Err(Silence::Refused(refusal)) => refused(refusal),
        Err(Silence::Unreachable | Silence::Nonsense) => refused(CheckRefusal::NoWay),
    }
}
