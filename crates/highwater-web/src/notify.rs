//! Tells others that an alert turned.
//!
//! *The webhook* gets every turn once, signed, from the queue on disk: the oldest first, the next
//! when it was taken. A receiver that does not answer is tried again, less and less often; one that
//! says that it will never take a turn (`400`, `413`, `415`, `422`) loses that one.
//!
//! *The Alertmanager* is told everything that fires, once a minute and whenever something turns,
//! each with an end a few minutes ahead: that is how it wants to be told, and it makes up by itself
//! for what it missed.
//!
//! How long the certificates of both still last is looked at meanwhile (`notify/certificates.rs`).

mod certificates;
mod sign;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use highwater::Engine;
use highwater::config::{AlertsConfig, Endpoint};
use highwater::report::{AlertRow, AlertsReport, rfc3339};
use highwater_core::WallTime;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::outgoing::{CallError, Caller};

/// How often the queue and the configuration are looked at when nothing turns.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After the first failure, and after many.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// How often an Alertmanager is told what fires. It takes what it is not told of for over after
/// five minutes, unless it was set up otherwise.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How far ahead the end of what fires is put: three of those may be missed.
const ENDS_AFTER_MS: u64 = 4 * 60 * 1000;
/// For how long it is told of what is over.
const OVER_TOLD_MS: u64 = 15 * 60 * 1000;

/// Sends alerts as long as it lives.
#[derive(Debug)]
pub(crate) struct Notifier([JoinHandle<()>; 3]);

impl Notifier {
    /// Starts to send the alerts of `engine`, whose HTTP API is at `http`.
    pub(crate) fn start(engine: Engine, http: SocketAddr) -> Self {
        Self([
            tokio::spawn(feed_webhook(engine.clone(), http)),
            tokio::spawn(certificates::watch(engine.clone(), http)),
            tokio::spawn(feed_alertmanager(engine, http)),
        ])
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // What was not sent is in the queue.
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn caller(engine: &Engine, http: SocketAddr, alerts: &AlertsConfig) -> Caller {
    Caller {
        allow: alerts.allow.clone(),
        own: vec![http, engine.sync_addr()],
        ca_file: alerts.ca_file.clone(),
    }
}

async fn feed_webhook(engine: Engine, http: SocketAddr) {
    let mut failures = 0;
    loop {
        let alerts = engine.config().alerts;
        let sent = match &alerts.webhook {
            Some(to) => send_oldest(&engine, &caller(&engine, http, &alerts), &alerts, to).await,
            None => Sent::Nothing,
        };
        match sent {
            Sent::Taken => failures = 0,
            Sent::Nothing => {
                tokio::select! {
                    () = engine.lookout().turned() => {}
                    () = engine.beat(LOOK_EVERY) => {}
                }
            }
            Sent::NotTaken => {
                failures += 1;
                tokio::time::sleep(backoff(failures)).await;
            }
        }
    }
}

/// What became of one attempt.
enum Sent {
    /// The queue is empty.
    Nothing,
    /// One turn less.
    Taken,
    /// Try again later.
    NotTaken,
}

async fn send_oldest(
    engine: &Engine,
    caller: &Caller,
    alerts: &AlertsConfig,
    to: &Endpoint,
) -> Sent {
    let (asked, home) = (engine.clone(), engine.home().clone());
    let file = alerts.webhook_secret_file.clone();
    let oldest = tokio::task::spawn_blocking(move || {
        let Some((parcel, body)) = asked.lookout().outbox().oldest()? else { return Ok(None) };
        Ok::<_, std::io::Error>(Some((parcel, body, sign::secret(&home, file.as_deref())?)))
    });
    let (parcel, body, secret) = match oldest.await {
        Ok(Ok(Some(found))) => found,
        Ok(Ok(None)) => return Sent::Nothing,
        Ok(Err(e)) => {
            tracing::warn!("alerts cannot be posted: {e}");
            engine.lookout().webhook().failed();
            return Sent::NotTaken;
        }
        Err(_) => return Sent::NotTaken,
    };
    let signature = sign::header(&secret, now().0 / 1000, &parcel.id, &body);
    let headers = [("highwater-id", parcel.id.clone()), ("highwater-signature", signature)];
    // The queue holds what was written as JSON, which is text.
    let body = String::from_utf8_lossy(&body).into_owned();
    let tally = engine.lookout().webhook();
    match caller.post(to, &headers, body).await {
        Ok(()) => tally.sent(),
        Err(CallError::Refused(status)) if is_final(status) => {
            tracing::warn!("the webhook refused an alert for good, with {}", status.as_u16());
            tally.dropped();
        }
        Err(e) => {
            tracing::warn!("the webhook was not told of an alert: {e}; it is tried again");
            tally.failed();
            return Sent::NotTaken;
        }
    }
    let settled = engine.clone();
    let settled =
        tokio::task::spawn_blocking(move || settled.lookout().outbox().settle(&parcel)).await;
    match settled {
        Ok(Ok(())) => Sent::Taken,
        // It would be posted again at once, and again.
        _ => Sent::NotTaken,
    }
}

/// Whether trying again leads to the same answer.
fn is_final(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 413 | 415 | 422)
}

/// How long to wait after so many failures in a row: twice as long each time, give or take a fifth,
/// so that many nodes do not come back at once.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
    let fifths = f64::from(sign::random_byte()) / 255.0 * 0.4 + 0.8;
    doubled.min(BACKOFF_MAX).mul_f64(fifths)
}

async fn feed_alertmanager(engine: Engine, http: SocketAddr) {
    loop {
        let (alerts, status) = (engine.config().alerts, engine.status().await);
        if let Some(to) = &alerts.alertmanager {
            let node = [
                ("node_id", status.node_id.to_string()),
                ("node", status.name),
                ("user", status.user),
            ];
            let told = tell(&engine.lookout().report(), &node, now());
            if !told.is_empty() {
                let tally = engine.lookout().alertmanager();
                let body = Value::Array(told).to_string();
                let to = Endpoint { path: path_of(to), ..to.clone() };
                match caller(&engine, http, &alerts).post(&to, &[], body).await {
                    Ok(()) => tally.sent(),
                    Err(e) => {
                        tracing::warn!("the Alertmanager was not told: {e}; it is tried again");
                        tally.failed();
                    }
                }
            }
        }
        tokio::select! {
            () = engine.lookout().turned() => {}
            () = tokio::time::sleep(TELL_EVERY) => {}
        }
    }
}

/// Where an Alertmanager takes alerts, below where it was said to be.
fn path_of(to: &Endpoint) -> String {
    format!("{}/api/v2/alerts", to.path.trim_end_matches('/'))
}

/// What an Alertmanager is told at `now`.
fn tell(report: &AlertsReport, node: &[(&str, String); 3], now: WallTime) -> Vec<Value> {
    let ends = rfc3339(WallTime(now.0 + ENDS_AFTER_MS));
    // Times of this form are in order as texts are.
    let told_since = rfc3339(WallTime(now.0.saturating_sub(OVER_TOLD_MS)));
    let again = |row: &AlertRow| {
        report.firing.iter().any(|other| other.rule == row.rule && other.subject == row.subject)
    };
    let over = report.recent.iter().filter(|row| !again(row));
    let over = over.filter_map(|row| {
        let ended = row.resolved.clone().filter(|ended| *ended >= told_since)?;
        Some(entry(row, node, ended))
    });
    report.firing.iter().map(|row| entry(row, node, ends.clone())).chain(over).collect()
}

fn entry(row: &AlertRow, node: &[(&str, String); 3], ends: String) -> Value {
    let mut labels = json!({
        "alertname": name_of(row.rule.as_str()),
        "severity": row.severity,
        "subject": row.subject,
    });
    for (label, text) in node {
        labels[*label] = json!(text);
    }
    json!({
        "labels": labels,
        "annotations": {
            "summary": row.cause,
            "action": row.what_to_do,
            "value": row.value.to_string(),
            "threshold": row.threshold.to_string(),
        },
        "startsAt": row.since,
        "endsAt": ends,
    })
}

/// `peer_silent` as `HighwaterPeerSilent`, which is how alerts are named there.
fn name_of(rule: &str) -> String {
    let words = rule.split('_').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    std::iter::once("Highwater".to_owned()).chain(words).collect()
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use highwater_core::alert::{Alert, Rule, Severity};

    use super::*;

    fn row(subject: &str, resolved: Option<u64>) -> AlertRow {
        AlertRow::of(&Alert {
            id: 1,
            rule: Rule::PeerSilent,
            severity: Severity::Warning,
            subject: subject.into(),
            since: WallTime(1_000),
            resolved: resolved.map(WallTime),
            value: 301.0,
            threshold: 300.0,
            cause: "there has been no link to bob for 301 s".into(),
        })
    }

    #[test]
    fn an_alertmanager_is_told_what_fires_and_what_was_over_lately() {
        let now = WallTime(100_000_000);
        let report = AlertsReport {
            firing: vec![row("bob", None)],
            recent: vec![
                row("carol", Some(now.0 - 1000)),
                row("dave", Some(now.0 - OVER_TOLD_MS - 1)),
                row("bob", Some(now.0 - 1000)),
            ],
            pending: 0,
            webhook: Default::default(),
            alertmanager: Default::default(),
        };
        let node = [("node_id", "n".into()), ("node", "a".into()), ("user", "u".into())];
        let told = tell(&report, &node, now);
        let subjects: Vec<_> = told.iter().map(|entry| &entry["labels"]["subject"]).collect();
        assert_eq!(subjects, ["bob", "carol"], "not what was over long ago, nor what fires again");
        assert_eq!(told[0]["labels"]["alertname"], "HighwaterPeerSilent");
        assert_eq!(told[0]["endsAt"], rfc3339(WallTime(now.0 + ENDS_AFTER_MS)));
        assert_eq!(told[1]["endsAt"], rfc3339(WallTime(now.0 - 1000)));
    }

    #[test]
    fn the_waits_grow_to_a_limit() {
        let at = |failures| backoff(failures).as_secs_f64();
        assert!((0.8..=1.2).contains(&at(1)) && (3.2..=4.8).contains(&at(3)));
        assert!((240.0..=360.0).contains(&at(20)) && (240.0..=360.0).contains(&at(u32::MAX)));
    }
}
