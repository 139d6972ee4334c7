//! The queue of what is to be posted to the webhook: one private file for each turn of an alert, in
//! `outbox/` of the home.
//!
//! A file is there before anyone is told that the alert turned, and goes when the receiver has taken
//! it; so a turn is posted at least once, whatever dies in between. Each has a name that it keeps,
//! by which a receiver knows one that it has been given twice. When the queue is full the oldest one
//! goes, and is counted.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_core::alert::Notice;
use serde::{Deserialize, Serialize};

use super::memory::replace;
use crate::report::{AlertRow, Status, rfc3339};
use crate::share::machine::wall_now;

/// Turns that wait. A receiver that is down for a day misses none of an ordinary node's.
const QUEUED_MAX: usize = 1000;
/// Longest body that is posted: an alert at its longest, every byte escaped.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// One turn of an alert, as it is posted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parcel {
    /// What it is known by; the same whenever it is posted.
    pub id: String,
    /// `firing` or `resolved`.
    pub event: String,
    /// When it turned, RFC 3339.
    pub time: String,
    /// The node that tells it.
    pub node: Sender,
    /// The alert.
    pub alert: AlertRow,
}

/// Who tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// Its id.
    pub node_id: String,
    /// Its name.
    pub name: String,
    /// Its user.
    pub user: String,
}

impl Parcel {
    pub(super) fn of(status: &Status, notice: &Notice) -> Self {
        let (event, alert) = match notice {
            Notice::Firing(alert) => ("firing", alert),
            Notice::Resolved(alert) => ("resolved", alert),
        };
        Self {
            id: format!("{}-{:08}-{event}", status.node_id, alert.id),
            event: event.to_owned(),
            time: rfc3339(wall_now()),
            node: Sender {
                node_id: status.node_id.to_string(),
                name: status.name.clone(),
                user: status.user.clone(),
            },
            alert: AlertRow::of(alert),
        }
    }

    /// The name of its file: the alerts in their order, and of each the beginning before the end.
    fn file_name(&self) -> String {
        format!("{:020}-{}.json", self.alert.id, self.event)
    }
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    dir: PathBuf,
    /// Counted when something changes: whoever only asks waits for no disk.
    queued: AtomicU64,
    dropped: AtomicU64,
}

impl Outbox {
    pub(super) fn at(dir: PathBuf) -> Self {
        let outbox = Self { dir, queued: AtomicU64::new(0), dropped: AtomicU64::new(0) };
        outbox.count();
        outbox
    }

    /// Adds a turn, durably. Without room the oldest one goes.
    pub(super) fn put(&self, parcel: &Parcel) {
        let written = self.make_room().and_then(|()| {
            replace(&self.dir.join(parcel.file_name()), &serde_json::to_vec(parcel)?)
        });
        if let Err(e) = written {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                "cannot queue an alert in {}: {e}; it is not posted",
                self.dir.display()
            );
        }
        self.count();
    }

    fn make_room(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.dir)?;
        let names = self.names()?;
        for name in names.iter().take((names.len() + 1).saturating_sub(QUEUED_MAX)) {
            fs::remove_file(self.dir.join(name))?;
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The oldest turn that waits: its id and the body to post.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn oldest(&self) -> io::Result<Option<(Parcel, Vec<u8>)>> {
        loop {
            let Some(name) = self.names()?.into_iter().next() else { return Ok(None) };
            let path = self.dir.join(name);
            let mut body = Vec::new();
            fs::File::open(&path)?.take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?;
            match serde_json::from_slice::<Parcel>(&body) {
                Ok(parcel) if body.len() as u64 <= BODY_BYTES_MAX => {
                    return Ok(Some((parcel, body)));
                }
                _ => {
                    tracing::warn!("{} is no alert that was queued; it is removed", path.display());
                    fs::remove_file(&path)?;
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    self.count();
                }
            }
        }
    }

    /// Takes a turn out of the queue: the receiver has it, or never will.
    ///
    /// # Errors
    /// When it cannot be removed; it is posted again.
    pub fn settle(&self, parcel: &Parcel) -> io::Result<()> {
        let removed = fs::remove_file(self.dir.join(parcel.file_name()));
        self.count();
        removed
    }

    /// How many turns wait.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    fn count(&self) {
        let queued = self.names().map_or(0, |names| names.len() as u64);
        self.queued.store(queued, Ordering::Relaxed);
    }

    /// How many turns were never posted.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The files of the queue, the oldest first. What an interrupted write left is none of them.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use highwater_core::WallTime;
    use highwater_core::alert::{Alert, Rule, Severity};

    use super::*;

    fn parcel(id: u64, event: &str) -> Parcel {
        let alert = Alert {
            id,
            rule: Rule::BitRot,
            severity: Severity::Critical,
            subject: "<img src=x>\u{1b}[2J\"".into(),
            since: WallTime(0),
            resolved: None,
            value: 1.0,
            threshold: 1.0,
            cause: "a\nb".into(),
        };
        Parcel {
            id: format!("n-{id}-{event}"),
            event: event.into(),
            time: rfc3339(WallTime(0)),
            node: Sender { node_id: "n".into(), name: "n".into(), user: "u".into() },
            alert: AlertRow::of(&alert),
        }
    }

    #[test]
    fn turns_leave_in_their_order_once_they_were_taken_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("scratch");
        let outbox = Outbox::at(dir.path().join("outbox"));
        assert_eq!((outbox.queued(), outbox.oldest().expect("empty").is_none()), (0, true));
        for (id, event) in [(10, "firing"), (9, "firing"), (9, "resolved")] {
            outbox.put(&parcel(id, event));
        }
        drop(outbox);
        let outbox = Outbox::at(dir.path().join("outbox"));
        let mut left = Vec::new();
        while let Some((parcel, body)) = outbox.oldest().expect("readable") {
            let text = String::from_utf8(body).expect("JSON");
            assert!(!text.contains(['\u{1b}', '\n']), "names are escaped: {text}");
            left.push(parcel.id.clone());
            outbox.settle(&parcel).expect("removed");
        }
        assert_eq!(left, ["n-9-firing", "n-9-resolved", "n-10-firing"]);
    }

    #[test]
    fn a_full_queue_loses_its_oldest_and_says_so_and_a_spoilt_file_holds_up_nobody() {
        let dir = tempfile::tempdir().expect("scratch");
        let outbox = Outbox::at(dir.path().to_owned());
        for id in 0..QUEUED_MAX as u64 {
            fs::write(dir.path().join(parcel(id, "firing").file_name()), "{").expect("written");
        }
        outbox.put(&parcel(5000, "firing"));
        assert_eq!((outbox.queued(), outbox.dropped()), (QUEUED_MAX as u64, 1));
        let (oldest, _) = outbox.oldest().expect("readable").expect("one is whole");
        assert_eq!((oldest.alert.id, outbox.queued()), (5000, 1));
        assert_eq!(outbox.dropped(), QUEUED_MAX as u64);
    }
}
