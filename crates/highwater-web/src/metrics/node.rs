//! Figures of the node: what `status`, `/health` and `alerts` say, as numbers.

use std::collections::BTreeMap;

use highwater::report::net::Peer;
use highwater::report::{
    AlertsReport, CheckBrief, Counters, Health, LagRow, PeerStatus, ShareState, ShareStatus,
    Status, TransferState, parse_rfc3339,
};

use super::text::{Kind, Page};

/// Every state of a share; the one it is in is 1.
const SHARE_STATES: [ShareState; 5] = [
    ShareState::Idle,
    ShareState::Scanning,
    ShareState::Syncing,
    ShareState::Paused,
    ShareState::Error,
];
const TRANSFER_STATES: [TransferState; 3] =
    [TransferState::Waiting, TransferState::Receiving, TransferState::Applying];

fn bit(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

pub(super) fn about(page: &mut Page, status: &Status, health: &Health) {
    let name = "highwater_node_info";
    page.family(name, Kind::Gauge, "Which node this is; always 1.");
    let labels = [
        ("node_id", status.node_id.to_string()),
        ("name", status.name.clone()),
        ("user", status.user.clone()),
        ("version", status.version.clone()),
    ];
    page.sample(name, &labels.each_ref().map(|(label, text)| (*label, text.as_str())), 1.0);
    let uptime = status.uptime_seconds as f64;
    let help = "How long the daemon has been running.";
    page.single("highwater_uptime_seconds", Kind::Gauge, help, uptime);
    let help = "Whether every health check holds.";
    page.single("highwater_healthy", Kind::Gauge, help, bit(health.status));
    let name = "highwater_health_check";
    page.family(name, Kind::Gauge, "Whether one health check holds.");
    let checks = &health.checks;
    for (check, holds) in [
        ("store", checks.store.status),
        ("disk", checks.disk.status),
        ("shares", checks.shares.status),
        ("cluster", checks.cluster.status),
    ] {
        page.sample(name, &[("check", check)], bit(holds));
    }
    let free = checks.disk.free_bytes as f64;
    let help = "Room on the disk of the store.";
    page.single("highwater_disk_free_bytes", Kind::Gauge, help, free);
    let name = "highwater_node_problems";
    page.family(name, Kind::Gauge, "What is wrong with the node itself, by kind.");
    for (kind, count) in by_kind(status.problems.iter().map(|problem| problem.kind.as_str())) {
        page.sample(name, &[("kind", kind)], count);
    }
}

fn by_kind<'a>(kinds: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, f64> {
    kinds.fold(BTreeMap::new(), |mut counts, kind| {
        *counts.entry(kind).or_default() += 1.0;
        counts
    })
}

pub(super) fn shares(page: &mut Page, status: &Status) {
    let name = "highwater_share_state";
    page.family(name, Kind::Gauge, "1 for the state that the share is in.");
    for share in &status.shares {
        for state in SHARE_STATES {
            let labels = [("share", share.name.as_str()), ("state", &state.to_string())];
            page.sample(name, &labels, bit(share.state == state));
        }
    }
    type Figure = fn(&ShareStatus) -> u64;
    let figures: [(&str, &str, Figure); 6] = [
        ("highwater_share_entries", "Live entries.", |share| share.entries),
        ("highwater_share_bytes", "Content bytes of the live entries.", |share| share.bytes),
        ("highwater_share_log_head", "The last position of this node's log.", |share| {
            share.head_seq.0
        }),
        ("highwater_share_needed_entries", "Entries that are not here yet.", |share| {
            share.needed.entries
        }),
        (
            "highwater_share_needed_bytes",
            "Content bytes of the entries that are not here yet.",
            |share| share.needed.bytes,
        ),
        ("highwater_share_conflicts", "Preserved losing versions.", |share| share.conflicts),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for share in &status.shares {
            page.sample(name, &[("share", share.name.as_str())], figure(share) as f64);
        }
    }
    let name = "highwater_share_problems";
    page.family(name, Kind::Gauge, "What keeps entries from being synced, by kind.");
    for share in &status.shares {
        for (kind, count) in by_kind(share.problems.iter().map(|problem| problem.kind.as_str())) {
            page.sample(name, &[("share", share.name.as_str()), ("kind", kind)], count);
        }
    }
    peers(page, status);
    transfers(page, status);
}

fn peers(page: &mut Page, status: &Status) {
    type Figure = fn(&PeerStatus) -> f64;
    let figures: [(&str, &str, Figure); 6] = [
        ("highwater_peer_connected", "Whether there is a link to the peer.", |peer| {
            bit(peer.connected)
        }),
        ("highwater_peer_in_sync", "Whether neither side lacks anything of the other.", |peer| {
            bit(peer.in_sync)
        }),
        ("highwater_pull_checkpoint", "This node has the peer's log up to here.", |peer| {
            peer.pull.acked_seq.0 as f64
        }),
        ("highwater_pull_head", "The end of the peer's log.", |peer| peer.pull.head_seq.0 as f64),
        ("highwater_push_checkpoint", "The peer has this node's log up to here.", |peer| {
            peer.push.acked_seq.0 as f64
        }),
        ("highwater_push_head", "The end of this node's log for the peer.", |peer| {
            peer.push.head_seq.0 as f64
        }),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for share in &status.shares {
            for peer in &share.peers {
                let id = peer.node_id.to_string();
                let labels =
                    [("share", share.name.as_str()), ("peer", &peer.name), ("peer_id", &id)];
                page.sample(name, &labels, figure(peer));
            }
        }
    }
}

fn transfers(page: &mut Page, status: &Status) {
    let name = "highwater_transfers";
    page.family(name, Kind::Gauge, "Contents in flight to this node, by state.");
    for state in TRANSFER_STATES {
        let count = status.transfers.iter().filter(|transfer| transfer.state == state).count();
        page.sample(name, &[("state", &state.to_string())], count as f64);
    }
    let left: u64 = status.transfers.iter().map(|t| t.size.saturating_sub(t.acked_offset)).sum();
    let help = "Bytes of the contents in flight that are not durable here yet.";
    page.single("highwater_transfer_remaining_bytes", Kind::Gauge, help, left as f64);
    let rate: u64 = status.transfers.iter().map(|transfer| transfer.bytes_per_second).sum();
    let help = "The recent rate of all contents in flight.";
    page.single("highwater_transfer_bytes_per_second", Kind::Gauge, help, rate as f64);
}

/// What the lines to the peers are like.
pub(super) fn lines(page: &mut Page, peers: &[Peer]) {
    let name = "highwater_peer_rtt_seconds";
    page.family(name, Kind::Gauge, "Round trips of the last ten minutes, by quantile.");
    for peer in peers {
        let Some(rtt) = peer.quality.rtt_ms else { continue };
        let id = peer.node_id.to_string();
        for (quantile, millis) in [("0.5", rtt.p50), ("0.95", rtt.p95), ("0.99", rtt.p99)] {
            let labels = [("peer", peer.name.as_str()), ("peer_id", &id), ("quantile", quantile)];
            page.sample(name, &labels, millis / 1000.0);
        }
    }
    type Figure = fn(&Peer) -> Option<f64>;
    let figures: [(&str, &str, Figure); 6] = [
        ("highwater_peer_quality_score", "What the line is like: 0, no link, to 100.", |peer| {
            Some(f64::from(peer.quality.score))
        }),
        ("highwater_peer_loss_ratio", "Segments that had to be sent again.", |peer| {
            peer.quality.loss_percent.map(|percent| percent / 100.0)
        }),
        ("highwater_peer_receive_bytes_per_second", "Goodput from the peer.", |peer| {
            peer.quality.receive_bytes_per_second.map(|rate| rate as f64)
        }),
        ("highwater_peer_send_bytes_per_second", "Goodput to the peer.", |peer| {
            peer.quality.send_bytes_per_second.map(|rate| rate as f64)
        }),
        ("highwater_peer_link_age_seconds", "How long the link has been up.", |peer| {
            peer.quality.connected_seconds.map(|seconds| seconds as f64)
        }),
        ("highwater_peer_clock_offset_seconds", "How much later the peer's clock is.", |peer| {
            peer.clock_offset_ms.map(|millis| millis as f64 / 1000.0)
        }),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for peer in peers {
            if let Some(value) = figure(peer) {
                let id = peer.node_id.to_string();
                page.sample(name, &[("peer", peer.name.as_str()), ("peer_id", &id)], value);
            }
        }
    }
}

/// The latest checks of each share, by who began them.
pub(super) fn checks(page: &mut Page, status: &Status) {
    let latest = |share: &ShareStatus| {
        let checks = share.check.clone().unwrap_or_default();
        [("check", checks.last), ("scrub", checks.scrub)]
    };
    let running = "highwater_check_running";
    page.family(running, Kind::Gauge, "Whether a check of the share is under way.");
    for share in &status.shares {
        let runs = share.check.as_ref().is_some_and(|checks| checks.running.is_some());
        page.sample(running, &[("share", share.name.as_str())], bit(runs));
    }
    type Figure = fn(&CheckBrief) -> Option<f64>;
    let figures: [(&str, &str, Figure); 3] = [
        ("highwater_check_differences", "Keys that differed in the latest check.", |check| {
            Some(check.differences as f64)
        }),
        ("highwater_check_identical", "Whether the latest check found no difference.", |check| {
            Some(bit(check.outcome == "identical"))
        }),
        (
            "highwater_check_started_timestamp_seconds",
            "When the latest check was begun, in seconds since 1970.",
            |check| Some(parse_rfc3339(&check.started)?.0 as f64 / 1000.0),
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for share in &status.shares {
            for (origin, check) in latest(share) {
                if let Some(value) = check.as_ref().and_then(figure) {
                    let labels = [("share", share.name.as_str()), ("origin", origin)];
                    page.sample(name, &labels, value);
                }
            }
        }
    }
}

pub(super) fn lags(page: &mut Page, lags: &[LagRow]) {
    type Figure = fn(&LagRow) -> f64;
    let figures: [(&str, &str, Figure); 2] = [
        (
            "highwater_replication_lag_entries",
            "Changes that one side has not acknowledged: pull, this node; push, the peer.",
            |lag| lag.entries as f64,
        ),
        (
            "highwater_replication_lag_seconds",
            "How long the oldest of those has been waiting.",
            |lag| lag.seconds,
        ),
    ];
    for (name, help, figure) in figures {
        page.family(name, Kind::Gauge, help);
        for lag in lags {
            let id = lag.peer.to_string();
            let labels = [("share", lag.share.as_str()), ("peer_id", &id), ("direction", &lag.way)];
            page.sample(name, &labels, figure(lag));
        }
    }
}

pub(super) fn counters(page: &mut Page, counters: &Counters) {
    let rows = [
        (
            "highwater_content_received_bytes_total",
            "Content bytes that came over the network.",
            counters.content_bytes_received,
        ),
        (
            "highwater_content_reused_bytes_total",
            "Content bytes found on this node instead of being asked for.",
            counters.content_bytes_reused,
        ),
        (
            "highwater_content_resent_bytes_total",
            "Content bytes received that were durable here already.",
            counters.content_bytes_resent,
        ),
        ("highwater_entries_applied_total", "Entries put in place.", counters.entries_applied),
        (
            "highwater_reconnects_total",
            "Links that came up again after they had been lost.",
            counters.reconnects,
        ),
        (
            "highwater_hash_mismatches_total",
            "Chunks refused because their bytes did not fit their hash.",
            counters.hash_mismatches,
        ),
        (
            "highwater_files_hashed_total",
            "Files of the shares that were read and hashed.",
            counters.files_hashed,
        ),
    ];
    for (name, help, value) in rows {
        page.single(name, Kind::Counter, help, value as f64);
    }
}

pub(super) fn alerts(page: &mut Page, report: &AlertsReport) {
    let name = "highwater_alerts_firing";
    page.family(name, Kind::Gauge, "Alerts that fire, by rule.");
    for (rule, count) in by_kind(report.firing.iter().map(|alert| alert.rule.as_str())) {
        page.sample(name, &[("rule", rule)], count);
    }
    let pending = report.pending as f64;
    let help = "Figures that are bad, and not for long enough yet.";
    page.single("highwater_alerts_pending", Kind::Gauge, help, pending);
    let receivers = [("webhook", &report.webhook), ("alertmanager", &report.alertmanager)];
    let name = "highwater_alert_notifications_total";
    page.family(name, Kind::Counter, "What was sent of alerts, by receiver and outcome.");
    for (receiver, told) in receivers {
        for (outcome, count) in
            [("sent", told.sent), ("failed", told.failed), ("dropped", told.dropped)]
        {
            page.sample(name, &[("receiver", receiver), ("outcome", outcome)], count as f64);
        }
    }
    let name = "highwater_alert_notifications_queued";
    page.family(name, Kind::Gauge, "What waits to be sent of alerts.");
    for (receiver, told) in receivers {
        page.sample(name, &[("receiver", receiver)], told.queued as f64);
    }
}
