//! Whom a transfer asks for what, and when it gives a source up.

use std::sync::Arc;
use std::time::Duration;

use highwater_core::choice::{Candidate, is_better_off, worth_asking};
use highwater_core::wire::{Ask, Content, Refusal, RequestId};
use tokio::time::Instant;

use super::{STALL, Transfer};
use crate::fetch::source::{LinkId, Source};
use crate::report::TransferState;

/// Requests of one transfer under way, however small the runs are that it misses.
const REQUESTS_MAX: usize = 64;
/// When nobody has sent anything for this long, the transfer is interrupted, whether or not a link
/// has ended: people see it waiting, and where it is taken up again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a source that lacks the content is left alone.
const LACKING: Duration = Duration::from_secs(1);
/// A source that is not worth asking is asked for a little this often, in case it has become faster.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// How much that is: one chunk, whatever its length.
const TRIED_BYTES: u64 = 1;

pub(super) struct Asked {
    pub(super) source: Arc<Source>,
    /// Bytes still to come.
    pub(super) owed: u64,
    pub(super) heard: Instant,
}

impl Asked {
    /// For how long nothing has come of it, nor of what it may wait behind.
    fn silence(&self) -> Duration {
        self.heard.elapsed().min(self.source.idle())
    }

    /// No more is wanted of the answer; the peer is told if some is still to come.
    pub(super) fn give_up(self, id: RequestId) {
        self.source.given_up(self.owed);
        self.source.router.close(id);
        if self.owed > 0 {
            // A full queue: the rest arrives and is dropped.
            let _ = self.source.content.try_send(Content::Cancel(id));
        }
    }
}

impl Transfer<'_> {
    /// Fills the windows of the sources with requests for what is missing.
    pub(super) async fn ask(&mut self, sources: &[Arc<Source>]) {
        let now = Instant::now();
        self.lacking.retain(|_, until| *until > now);
        for (source, room_max) in self.choose(sources) {
            loop {
                let room = source.room().min(room_max);
                let idle = !self.asks(source.id);
                // Who is only tried is asked for one run.
                let tried = room_max == TRIED_BYTES && !idle;
                if tried || (room == 0 && !idle) || self.asked.len() >= REQUESTS_MAX {
                    break;
                }
                let Some(run) = self.fetch.next_run(&self.manifest, room.max(1)) else { return };
                self.tried.insert(source.id, now);
                let ask = Ask::Range {
                    content: self.manifest.content(),
                    offset: run.offset,
                    length: run.length,
                };
                let asked =
                    source.ask(&self.ground.share, ask, run.length, &self.inbox.clone()).await;
                let Some(id) = asked else { break };
                self.fetch.asked(id, source.id, run);
                let source = Arc::clone(&source);
                self.asked.insert(id, Asked { source, owed: run.length, heard: now });
                if let Some(writer) = &mut self.writer {
                    writer.expect(id, run);
                }
            }
        }
    }

    fn asks(&self, link: LinkId) -> bool {
        self.asked.values().any(|asked| asked.source.id == link)
    }

    /// Whom to ask, in which order, and how much at a time: all that bring the end nearer, and now and
    /// then a little of one that would not, to see whether it still is as slow.
    fn choose(&self, sources: &[Arc<Source>]) -> Vec<(Arc<Source>, u64)> {
        let free = sources.iter().filter(|source| !self.lacking.contains_key(&source.id));
        let free: Vec<&Arc<Source>> = free.collect();
        let candidates: Vec<Candidate> = free.iter().map(|source| source.candidate()).collect();
        let nobody_known = candidates.iter().all(|candidate| candidate.rate == 0);
        let worth = worth_asking(&candidates, self.remaining());
        let unknown = |place: usize| candidates[place].rate == 0 && !nobody_known;
        let room = |place: usize| if unknown(place) { TRIED_BYTES } else { u64::MAX };
        let mut chosen: Vec<(Arc<Source>, u64)> =
            worth.iter().map(|place| (Arc::clone(free[*place]), room(*place))).collect();
        let others = (0..free.len()).filter(|place| !worth.contains(place));
        let due = others.filter(|place| {
            let tried = self.tried.get(&free[*place].id);
            !candidates[*place].silent && tried.is_none_or(|at| at.elapsed() > TRY_EVERY)
        });
        chosen.extend(due.map(|place| (Arc::clone(free[place]), TRIED_BYTES)));
        chosen
    }

    /// About how many bytes are missing.
    fn remaining(&self) -> u64 {
        let chunks = self.manifest.chunks().len().max(1) as u64;
        let missing = chunks.saturating_sub(self.fetch.held().len() as u64);
        (u128::from(self.manifest.size()) * u128::from(missing) / u128::from(chunks)) as u64
    }

    /// Whether there are peers, none of them has the content, and nothing is on its way.
    pub(super) fn is_refused_by_all(&self, sources: &[Arc<Source>]) -> bool {
        let idle = self.asked.is_empty() && self.syncing.is_none();
        let refused = |source: &Arc<Source>| self.lacking.contains_key(&source.id);
        idle && !sources.is_empty() && sources.iter().all(refused)
    }

    pub(super) fn leave_alone(&mut self, link: LinkId) {
        self.lacking.insert(link, Instant::now() + LACKING);
    }

    pub(super) fn look_for_stalls(&mut self, sources: &[Arc<Source>]) {
        let paused = self.asked.values().all(|asked| asked.silence() > PAUSE);
        if paused && !self.asked.is_empty() && !self.broken {
            self.broken = true;
            self.shown.set_state(TransferState::Waiting, None);
        }
        let stalled: Vec<RequestId> = self
            .asked
            .iter()
            .filter(|(_, asked)| self.is_stalled(asked, sources))
            .map(|(&id, _)| id)
            .collect();
        for id in stalled {
            self.refused(id, Refusal::Busy);
        }
        self.take_over_the_last(sources);
    }

    /// Whether an answer has brought nothing for too long. Where somebody else can be asked nobody waits
    /// long.
    fn is_stalled(&self, asked: &Asked, sources: &[Arc<Source>]) -> bool {
        let other = sources.iter().any(|source| {
            let able = self.may_take_over(source) && !source.line.is_silent();
            source.id != asked.source.id && able
        });
        if other {
            asked.heard.elapsed() > asked.source.candidate().patience().min(STALL)
        } else {
            asked.silence() > STALL
        }
    }

    /// Whether a source can be asked for what another owes. One that lacked the content may have it by
    /// now, and is asked for more of it; but what is on its way is not given up for that.
    fn may_take_over(&self, source: &Source) -> bool {
        !self.lacking.contains_key(&source.id) && !self.without.contains(&source.id)
    }

    /// When nothing is left to ask for, what a slow source still owes is asked of a fast one.
    fn take_over_the_last(&mut self, sources: &[Arc<Source>]) {
        if self.fetch.next_run(&self.manifest, 1).is_some() {
            return;
        }
        let idle = sources.iter().filter(|s| !self.asks(s.id) && self.may_take_over(s));
        let idle: Vec<Candidate> = idle.map(|source| source.candidate()).collect();
        let slow: Vec<(RequestId, LinkId)> = self
            .asked
            .iter()
            .filter(|(_, asked)| {
                let slow = asked.source.candidate();
                idle.iter().any(|idle| !idle.silent && is_better_off(asked.owed, &slow, idle))
            })
            .map(|(id, asked)| (*id, asked.source.id))
            .collect();
        for (id, link) in slow {
            self.leave_alone(link);
            self.close(id);
        }
    }
}
