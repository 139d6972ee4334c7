//! One node of a check, as the node that leads it asks it: itself over its own desk, a peer over
//! whatever link is up, any other through those that are linked with it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_core::check::{CheckAnswer, CheckAsk, CheckId, CheckRefusal, DeepProgress, States};
use highwater_core::fingerprint::Fingerprint;
use highwater_core::way::Onward;
use highwater_core::wire::Control;
use highwater_core::{Key, NodeId, ShareName};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::talk::{self, Silence, Talk};
use crate::serve::Desk;

/// How long a node that is cut off is waited for before it counts as unreachable. A link that comes
/// back takes a second or two.
pub(crate) const REACH_WAIT: Duration = Duration::from_secs(10);
/// How long a node that was reached is waited for: it may be starting again, with a large share.
const RETURN_WAIT: Duration = Duration::from_secs(60);
/// How long a node is waited for that reads its folder, or does another check.
const BUSY_WAIT: Duration = Duration::from_secs(60);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// What a check needs of the node's links and of its cluster.
pub(crate) trait Reach: Debug + Send + Sync {
    /// This node.
    fn own(&self) -> NodeId;

    /// The link to a peer, while one is up.
    fn link(&self, peer: &NodeId) -> Option<LinkEnds>;

    /// Whether an operator removed this node from the cluster.
    fn is_removed(&self, node: &NodeId) -> bool;

    /// What the nodes of the cluster call themselves.
    fn names(&self) -> Later<'_, BTreeMap<NodeId, String>>;
}

/// The two ends of a link that a check talks over: what hears answers, and what sends.
pub(crate) type LinkEnds = (Arc<Talk>, mpsc::Sender<Control>);

/// Something that has to be waited for.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One node of a check.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    share: ShareName,
    way: Way,
    wire_bytes: AtomicU64,
    reached: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
enum Way {
    Own(Desk),
    /// A peer, or whoever is reached by passing through these nodes while there is no link with it.
    Peer(Arc<dyn Reach>, Vec<NodeId>),
}

impl Member {
    pub(crate) fn own(node: NodeId, name: String, share: ShareName, desk: Desk) -> Self {
        Self::new(node, name, share, Way::Own(desk))
    }

    pub(crate) fn peer(
        node: NodeId,
        name: String,
        share: ShareName,
        reach: Arc<dyn Reach>,
        through: Vec<NodeId>,
    ) -> Self {
        Self::new(node, name, share, Way::Peer(reach, through))
    }

    fn new(node: NodeId, name: String, share: ShareName, way: Way) -> Self {
        let (wire_bytes, reached) = (AtomicU64::new(0), false.into());
        Self { node, name, share, way, wire_bytes, reached }
    }

    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }

    /// The nodes that questions pass through just now; none while there is a link with it.
    pub(crate) fn through(&self) -> &[NodeId] {
        match &self.way {
            Way::Peer(reach, through) if reach.link(&self.node).is_none() => through,
            _ => &[],
        }
    }

    /// Asks, through cuts and restarts of the node, until it answers or is given up.
    pub(crate) async fn ask(&self, ask: CheckAsk) -> Result<CheckAnswer, Silence> {
        let began = Instant::now();
        loop {
            let silence = match self.ask_once(ask.clone()).await {
                Ok(answer) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(silence) => silence,
            };
            let patience = match silence {
                Silence::Unreachable
                | Silence::Refused(CheckRefusal::NotOpen | CheckRefusal::NoWay) => {
                    if self.reached.load(Ordering::Relaxed) { RETURN_WAIT } else { REACH_WAIT }
                }
                Silence::Refused(CheckRefusal::NotNow) => BUSY_WAIT,
                Silence::Refused(CheckRefusal::Failed) | Silence::Nonsense => return Err(silence),
            };
            if began.elapsed() >= patience {
                return Err(silence);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_once(&self, ask: CheckAsk) -> Result<CheckAnswer, Silence> {
        match &self.way {
            Way::Own(desk) => match talk::answer(desk, ask).await {
                CheckAnswer::Refused(refusal) => Err(Silence::Refused(refusal)),
                answer => Ok(answer),
            },
            Way::Peer(reach, through) => {
                let direct = reach.link(&self.node).map(|link| (link, ask.clone()));
                let link = direct.or_else(|| passed_on(reach.as_ref(), through, self.node, ask));
                let ((talk, control), ask) = link.ok_or(Silence::Unreachable)?;
                let (answer, bytes) = talk.ask(&control, &self.share, ask).await?;
                self.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(answer)
            }
        }
    }

    /// What it knows of these keys.
    pub(crate) async fn states(&self, keys: &[Key]) -> Result<States, Silence> {
        match self.ask(CheckAsk::States(keys.to_vec())).await? {
            CheckAnswer::States(states) if states.states.len() == keys.len() => Ok(states),
            _ => Err(Silence::Nonsense),
        }
    }

    /// How far its deep pass is, which begins with the first call.
    pub(crate) async fn deep(
        &self,
        check: CheckId,
        rate: u64,
        from_disk: bool,
    ) -> Result<DeepProgress, Silence> {
        match self.ask(CheckAsk::Deep { check, rate, from_disk }).await? {
            CheckAnswer::Deep(progress) => Ok(progress),
            _ => Err(Silence::Nonsense),
        }
    }

    /// The keys behind `after` under which its deep pass found something, or anything is known.
    pub(crate) async fn found(
        &self,
        check: Option<CheckId>,
        after: Option<Key>,
    ) -> Result<Vec<Key>, Silence> {
        match self.ask(CheckAsk::Found { check, after: after.clone() }).await? {
            CheckAnswer::Found(keys) if keys.first() > after.as_ref() || keys.is_empty() => {
                Ok(keys)
            }
            _ => Err(Silence::Nonsense),
        }
    }

    /// The fingerprint of everything it has.
    pub(crate) async fn all(&self) -> Result<(Fingerprint, bool), Silence> {
        let claim = highwater_core::check::Claim {
            range: highwater_core::fingerprint::KeyRange::ALL,
            fingerprint: Fingerprint::default(),
        };
        match self.ask(CheckAsk::Look(vec![claim])).await? {
            CheckAnswer::Looked { all, damaged, .. } => Ok((all, damaged)),
            _ => Err(Silence::Nonsense),
        }
    }
}

/// A question as it is put to the first node on a way, and the link with that one.
fn passed_on(
    reach: &dyn Reach,
    through: &[NodeId],
    node: NodeId,
    ask: CheckAsk,
) -> Option<(LinkEnds, CheckAsk)> {
    let (first, rest) = through.split_first()?;
    let way = rest.iter().copied().chain([node]).collect();
    Some((reach.link(first)?, CheckAsk::Onward(Onward { way, ask: Box::new(ask) })))
}
