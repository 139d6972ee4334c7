//! Alerts that really fire, on their way to real receivers.

use std::fs;

use super::receiver::{Receiver, Taken};
use super::{Other, Served, ask_other, free, started, wait_for};

/// Files of the share; deleting most of them is held back, and that is an alert.
const FILES: usize = 8;

/// A node that holds back small deletes too and posts to `webhook`.
fn node(more: &str) -> Served {
    let served = Served::stopped(&format!("\n[alerts]\nallow = [\"127.0.0.1\"]\n{more}\n"));
    let config = served.node.home().join("config.toml");
    let text = fs::read_to_string(&config).expect("there");
    let guarded = "name = \"docs\"\nmass_delete_fraction = 0.1\nmass_delete_entries_min = 1\n";
    assert!(text.contains("name = \"docs\"\n"), "{text}");
    fs::write(&config, text.replace("name = \"docs\"\n", guarded)).expect("written");
    for number in 0..FILES {
        // Each its own: what is gone here and still lies there was renamed, not deleted.
        let file = served.node.folder("docs").join(number.to_string());
        fs::write(file, format!("content {number}")).expect("written");
    }
    let served = Served { node: started(served.node), ..served };
    wait_for("the files are known", || {
        let share = served.get("/api/v1/shares/docs").json();
        (share["entries"] == FILES).then_some(())
    });
    served
}

fn delete_most(served: &Served) {
    for number in 1..FILES {
        fs::remove_file(served.node.folder("docs").join(number.to_string())).expect("removed");
    }
    wait_for("the alert fires", || {
        let alerts = served.get("/api/v1/alerts").json();
        (alerts["firing"][0]["rule"] == "mass_delete").then_some(())
    });
}

/// What was posted: which alert and how it turned.
fn turn(taken: &Taken) -> (String, String) {
    let body = taken.json();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    (text(&body["alert"]["rule"]), text(&body["event"]))
}

#[test]
fn an_alert_is_posted_once_when_it_fires_and_once_when_it_is_over_and_is_signed() {
    let receiver = Receiver::at(free(), &[200]);
    let served = node(&format!("webhook = \"http://{}/hook\"", receiver.addr));
    delete_most(&served);
    let fired = receiver.next();
    assert!(fired.head.starts_with("POST /hook HTTP/1.1"), "{}", fired.head);
    assert_eq!(turn(&fired), ("mass_delete".into(), "firing".into()));
    let body = fired.json();
    for field in ["since", "value", "threshold", "cause", "what_to_do", "severity", "subject"] {
        assert!(!body["alert"][field].is_null(), "{field}: {body}");
    }
    assert_eq!(body["node"]["node_id"], served.node.id());
    let secret = fs::read_to_string(served.node.home().join("webhook.secret")).expect("made");
    assert!(fired.is_signed_with(secret.trim().as_bytes()), "{fired:?}");
    assert!(!fired.is_signed_with(b"another secret"), "the verifier can say no");
    let said = served.node.run(&["alerts"]).expect("told");
    assert!(said.contains("mass_delete: docs since") && said.contains("share confirm"), "{said}");

    served.node.run(&["share", "confirm", "docs"]).expect("confirmed");
    let over = receiver.next();
    assert_eq!(turn(&over), ("mass_delete".into(), "resolved".into()));
    assert!(over.is_signed_with(secret.trim().as_bytes()));
    assert_eq!(over.json()["alert"]["id"], body["alert"]["id"]);
    // A post counts as sent when its answer was read, which is after the receiver has it.
    let report = wait_for("both posts count as sent", || {
        let report = served.get("/api/v1/alerts").json();
        (report["webhook"]["sent"] == 2).then_some(report)
    });
    assert_eq!(report["firing"], serde_json::json!([]));
    assert_eq!(report["recent"][0]["rule"], "mass_delete");
    assert!(receiver.is_quiet(), "something was told twice");
}

#[test]
fn a_receiver_that_was_down_is_told_everything_in_order_even_after_a_restart() {
    let addr = free();
    let mut served = node(&format!("webhook = \"http://{addr}/\""));
    delete_most(&served);
    served.node.run(&["share", "confirm", "docs"]).expect("confirmed");
    wait_for("both turns are queued and an attempt has failed", || {
        let told = served.get("/api/v1/alerts").json()["webhook"].clone();
        (told["queued"] == 2 && told["failed"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(served.get("/health").status, 200, "syncing does not depend on it");
    served.node.kill().expect("killed");
    served.node.start().expect("it starts again");
    let receiver = Receiver::at(addr, &[503, 200]);
    let turns = [receiver.next(), receiver.next()].map(|taken| turn(&taken).1);
    assert_eq!(turns, ["firing", "resolved"]);
    wait_for("the queue is empty", || {
        (served.get("/api/v1/alerts").json()["webhook"]["queued"] == 0).then_some(())
    });
    assert!(receiver.is_quiet());
}

#[test]
fn a_receiver_on_this_machine_is_not_called_unless_its_network_is_allowed() {
    let receiver = Receiver::at(free(), &[200]);
    let served = node(&format!("webhook = \"http://{}/\"", receiver.addr));
    let config = served.node.home().join("config.toml");
    let text = fs::read_to_string(&config).expect("there");
    fs::write(&config, text.replace("allow = [\"127.0.0.1\"]", "allow = []")).expect("written");
    served.node.run(&["share", "resume", "docs"]).expect("the configuration is read again");
    delete_most(&served);
    wait_for("an attempt has failed", || {
        let told = served.get("/api/v1/alerts").json()["webhook"].clone();
        (told["failed"].as_u64() > Some(0) && told["queued"] == 1).then_some(())
    });
    assert!(receiver.is_quiet(), "it was called");
}

#[test]
fn a_real_alertmanager_is_told_what_fires_and_when_it_is_over() {
    let dir = tempfile::tempdir().expect("scratch");
    let config = dir.path().join("alertmanager.yml");
    fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n")
        .expect("written");
    let addr = free();
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", dir.path().join("data").display()),
        format!("--web.listen-address={addr}"),
        "--cluster.listen-address=".to_owned(),
    ];
    let Some(_alertmanager) = Other::start("prometheus-alertmanager", &args) else { return };
    wait_for("the Alertmanager is ready", || ask_other(addr, "/-/ready"));
    let served = node(&format!("alertmanager = \"http://{addr}\""));
    delete_most(&served);
    let shown = wait_for("it has the alert", || {
        let alerts = ask_other(addr, "/api/v2/alerts")?;
        alerts.as_array()?.first().cloned()
    });
    assert_eq!(shown["labels"]["alertname"], "HighwaterMassDelete", "{shown}");
    assert_eq!(shown["labels"]["node_id"], served.node.id(), "{shown}");
    assert!(shown["annotations"]["action"].as_str().is_some_and(|text| text.contains("confirm")));
    served.node.run(&["share", "confirm", "docs"]).expect("confirmed");
    wait_for("it is over there too", || {
        let alerts = ask_other(addr, "/api/v2/alerts")?;
        alerts.as_array()?.is_empty().then_some(())
    });
}
