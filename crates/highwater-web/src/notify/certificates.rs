//! Looks at the certificates of those who are told of alerts, so that their end is an alert itself.
//!
//! These are the only certificates here whose dates count: nodes know each other by their keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use highwater::Engine;
use highwater::config::{AlertsConfig, Endpoint};
use highwater_core::WallTime;
use highwater_core::alert::{Measured, Rule};

use super::{LOOK_EVERY, caller, now};

/// How often a certificate is looked at that will do for a while.
const WELL_EVERY: Duration = Duration::from_secs(3600);
/// How often one is that is about to end, has ended, or could not be seen.
const UNWELL_EVERY: Duration = Duration::from_secs(30);
/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;

/// What is known of one receiver's certificate.
struct Known {
    to: Endpoint,
    looked: Instant,
    end: Option<WallTime>,
}

/// Hands in, again and again, how long the certificates of the https receivers still last.
pub(super) async fn watch(engine: Engine, http: SocketAddr) {
    let mut known: BTreeMap<&'static str, Known> = BTreeMap::new();
    loop {
        let alerts = engine.config().alerts;
        let receivers = receivers(&alerts);
        known.retain(|name, known| receivers.get(name) == Some(&known.to));
        for (name, to) in receivers {
            if known.get(name).is_some_and(|known| !is_due(known, &alerts)) {
                continue;
            }
            let end = caller(&engine, http, &alerts).certificate_end(&to).await.ok();
            // One that cannot be seen now is as it was seen last.
            let end = end.or_else(|| known.get(name).and_then(|known| known.end));
            known.insert(name, Known { to, looked: Instant::now(), end });
        }
        let figures = known.iter().filter_map(|(name, known)| figure(name, known));
        engine.lookout().hand_in("certificates", figures.collect());
        engine.beat(LOOK_EVERY).await;
    }
}

/// The receivers that have to prove their names.
fn receivers(alerts: &AlertsConfig) -> BTreeMap<&'static str, Endpoint> {
    let both = [("webhook", &alerts.webhook), ("Alertmanager", &alerts.alertmanager)];
    let secured = both.into_iter().filter_map(|(name, to)| Some((name, to.clone()?)));
    secured.filter(|(_, to)| to.https).collect()
}

fn is_due(known: &Known, alerts: &AlertsConfig) -> bool {
    let level = alerts.levels(Rule::CertificateEnding).map_or(0.0, |levels| levels.clear);
    let well = known.end.is_some_and(|end| seconds_to(end) > level);
    known.looked.elapsed() >= if well { WELL_EVERY } else { UNWELL_EVERY }
}

/// How long it is until `end`; negative once it has passed.
fn seconds_to(end: WallTime) -> f64 {
    (end.0 as f64 - now().0 as f64) / 1000.0
}

fn figure(name: &str, known: &Known) -> Option<Measured> {
    let end = known.end?;
    let subject = format!("the {name} at {}", known.to.authority());
    let days = seconds_to(end) * 1000.0 / DAY_MS;
    let when = if days > 0.0 {
        format!("ends in {days:.1} days")
    } else {
        format!("ended {:.1} days ago; nothing can be sent there", -days)
    };
    let cause = format!("the certificate of {subject} {when}");
    Some(Measured { rule: Rule::CertificateEnding, subject, value: seconds_to(end), cause })
}
