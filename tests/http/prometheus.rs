//! The real Prometheus: it likes the page, loads the configuration that comes with this project, and
//! scrapes a node.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Other, Served, ask_other, free, wait_for};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("configs")
}

/// Runs `promtool` with this on its standard input; what it said, or `None` where it is not.
fn promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: promtool is not installed (apt-get install prometheus)");
            return None;
        }
        Err(error) => panic!("starting promtool: {error}"),
    };
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page_nor_with_the_configuration() {
    let served = Served::with("");
    let page = served.get("/metrics");
    assert!(page.head.contains("text/plain; version=0.0.4"), "{}", page.head);
    let Some((well, said)) = promtool(&["check", "metrics"], &page.body) else { return };
    assert!(well && said.trim().is_empty(), "{said}");
    let (well, said) =
        promtool(&["check", "metrics"], "# TYPE x counter\nx{a=\"b\"} 1\n").expect("it is there");
    assert!(!well, "promtool can say no: {said}");
    for (kind, file) in [("config", "prometheus.yml"), ("rules", "highwater.rules.yml")] {
        let file = configs().join("prometheus").join(file);
        let args = ["check", kind, file.to_str().expect("UTF-8")];
        let (well, said) = promtool(&args, "").expect("it is there");
        assert!(well, "{said}");
    }
}

#[test]
fn every_figure_of_the_dashboard_and_the_rules_is_on_the_page() {
    let served = Served::with(&format!(
        "\n[[peer]]\nid = \"{}\"\nshares = [\"docs\"]\n",
        highwater_core::NodeId::of_public_key(b"nobody")
    ));
    let page = served.get("/metrics").body;
    let dashboard = fs::read_to_string(configs().join("grafana/highwater.json")).expect("there");
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() >= 10));
    let rules =
        fs::read_to_string(configs().join("prometheus/highwater.rules.yml")).expect("there");
    let mut named = 0;
    for word in [dashboard, rules].concat().split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
    {
        if word.starts_with("highwater_") || word.starts_with("process_") {
            named += 1;
            assert!(page.contains(&format!("# TYPE {word} ")), "{word} is not on the page");
        }
    }
    assert!(named > 20, "only {named} figures are named");
}

#[test]
fn a_real_prometheus_scrapes_a_node_and_loads_the_rules() {
    let served = Served::with("");
    let dir = served.scratch().join("prometheus");
    fs::create_dir_all(&dir).expect("made");
    let from = configs().join("prometheus");
    fs::copy(from.join("highwater.rules.yml"), dir.join("highwater.rules.yml")).expect("copied");
    let config = fs::read_to_string(from.join("prometheus.yml")).expect("there");
    let targets = "\"127.0.0.1:8080\", \"127.0.0.1:8180\", \"127.0.0.1:8280\"";
    assert!(config.contains(targets), "the example has changed");
    let config = config.replace(targets, &format!("\"{}\"", served.addr())).replace("15s", "1s");
    fs::write(dir.join("prometheus.yml"), config).expect("written");
    let addr = free();
    let args = [
        format!("--config.file={}", dir.join("prometheus.yml").display()),
        format!("--storage.tsdb.path={}", dir.join("data").display()),
        format!("--web.listen-address={addr}"),
    ];
    let Some(_prometheus) = Other::start("prometheus", &args) else { return };
    let value = |query: &str| {
        let found = ask_other(addr, &format!("/api/v1/query?query={query}"))?;
        found["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok()
    };
    wait_for("the node was scraped", || value("highwater_healthy").filter(|well| *well == 1.0));
    wait_for("the target is up", || value("up").filter(|up| *up == 1.0));
    assert!(value("process_resident_memory_bytes").is_some_and(|bytes| bytes > 1e6));
    let rules = wait_for("the rules were evaluated", || {
        let found = ask_other(addr, "/api/v1/rules")?;
        let rules = found["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert_eq!(rules.len(), 8);
}
