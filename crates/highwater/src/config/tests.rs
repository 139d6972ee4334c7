//! What a configuration must and must not say.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("config.toml"), [])
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env = env.iter().map(|(name, value)| (name.into(), value.into()));
    Config::parse(text, Path::new("config.toml"), env)
}

#[test]
fn an_empty_file_is_a_configuration_of_defaults() {
    let config = parse("").expect("defaults");
    assert_eq!(config.listen.sync.to_string(), "0.0.0.0:7420");
    assert_eq!(config.listen.http.to_string(), "127.0.0.1:8080");
    assert!(config.shares.is_empty() && config.peers.is_empty());
}

#[test]
fn the_explained_configuration_loads_and_names_every_key() {
    let text = include_str!("../../../../configs/node.toml");
    let config = parse(text).expect("configs/node.toml");
    assert_eq!((config.shares.len(), config.peers.len()), (1, 1));
    assert_eq!(config.shares[0].rescan_interval, RESCAN_INTERVAL_DEFAULT);
    assert_eq!(config.shares[0].mass_delete, MassDelete::default());
    assert!(config.peers[0].addr.is_some());
    assert_eq!(config.cluster, ClusterConfig::default());
    for rule in highwater_core::alert::Rule::ALL {
        let (explained, default) = (config.alerts.levels(rule), rule.levels_default());
        assert_eq!(explained, Some(default), "{rule:?} is explained with its default");
        assert!(text.contains(rule.as_str()), "{rule:?} is not explained");
    }
    let keys = "name user sync http path mode rescan_interval mass_delete_fraction \
                mass_delete_entries_min paused id addr shares enabled off peer_silent lag_age \
                lag_entries transfer_stalled check_overdue disk_low clock_skew certificate_ending \
                version_skew links_max webhook webhook_secret_file alertmanager allow ca_file";
    for key in keys.split_whitespace() {
        assert!(text.contains(&format!("\n{key} =")), "{key} is not explained");
    }
}

#[test]
fn the_configurations_of_the_cluster_load() {
    for text in [
        include_str!("../../../../configs/cluster/a.toml"),
        include_str!("../../../../configs/cluster/b.toml"),
        include_str!("../../../../configs/cluster/c.toml"),
    ] {
        assert_eq!(parse(text).expect("a cluster node").shares.len(), 1);
    }
}

#[test]
fn a_refusal_names_the_key_and_the_line() {
    let share = "[[share]]\nname = \"docs\"\npath = \"/d\"\n";
    let id = highwater_core::NodeId::of_public_key(b"peer");
    let peer = format!("[[peer]]\nid = \"{id}\"\n");
    let rows: &[(String, &str, &str)] = &[
        ("[node]\nnmae = \"x\"\n".into(), "line 2", "nmae"),
        ("[node]\nname = 5\n".into(), "line 2", "name"),
        ("[nodes]\n".into(), "line 1", "nodes"),
        ("[node\n".into(), "line 1", ""),
        ("[node]\nname = \"a\"\nname = \"b\"\n".into(), "line 3", "name: duplicate key; keep one"),
        ("[node]\n[node]\n".into(), "line 2", "node: duplicate key; keep one"),
        (format!("{share}[share]\n"), "line 4", "share: duplicate key; keep one"),
        ("\n[listen]\nhttp = \"8080\"\n".into(), "line 3", "http"),
        ("[listen]\nsync = \"127.0.0.1:65536\"\n".into(), "line 2", "sync"),
        (format!("{share}mode = \"both\"\n"), "line 4", "mode"),
        (format!("{share}rescan_interval = 5\n"), "line 4", "rescan_interval"),
        (format!("{share}rescan_interval = \"5\"\n"), "line 4", "rescan_interval"),
        (format!("{share}rescan_interval = \"0s\"\n"), "line 4", "rescan_interval"),
        (format!("{share}rescan_interval = \"99999999999999999h\"\n"), "line 4", "year"),
        (format!("{share}mass_delete_fraction = 1.5\n"), "line 4", "mass_delete_fraction"),
        (format!("{share}mass_delete_fraction = nan\n"), "line 4", "mass_delete_fraction"),
        (format!("{share}mass_delete_entries_min = -1\n"), "line 4", "mass_delete_entries_min"),
        ("[[share]]\nname = \"a b\"\npath = \"/d\"\n".into(), "line 2", "name"),
        ("[[share]]\nname = \"a\"\npath = \"d\"\n".into(), "line 3", "absolute"),
        ("[[share]]\nname = \"a\"\n".into(), "config.toml", "path"),
        (format!("{share}{share}"), "line 5", "two shares"),
        (format!("{share}[[share]]\nname = \"x\"\npath = \"/d/x\"\n"), "line 6", "in one another"),
        ("[[peer]]\nid = \"abc\"\n".into(), "line 2", "id"),
        (format!("{peer}addr = \"nowhere\"\n"), "line 3", "addr"),
        (format!("{peer}addr = \"host:0\"\n"), "line 3", "addr"),
        (format!("{peer}{peer}"), "line 4", "twice"),
        (format!("{peer}shares = [\n  \"docs\",\n]\n"), "line 4", "docs"),
        ("[alerts]\noff = [\"nonsense\"]\n".into(), "line 2", "off"),
        ("[alerts]\npeer_silent = \"1s\"\n".into(), "line 2", "peer_silent"),
        ("[alerts]\nlag_entries = 0\n".into(), "line 2", "lag_entries"),
        ("[alerts]\nversion_skew = \"1s\"\n".into(), "line 2", "version_skew"),
        ("[cluster]\nlinks_max = 3\n".into(), "line 2", "4 to 128"),
        ("[cluster]\nlinks_max = 129\n".into(), "line 2", "4 to 128"),
        ("[cluster]\nlinks_max = \"16\"\n".into(), "line 2", "links_max"),
        ("[alerts]\ndisk_low = \"10 GB\"\n".into(), "line 2", "disk_low"),
        ("[alerts]\ndisk_low = \"99999999999TiB\"\n".into(), "line 2", "disk_low"),
        ("[alerts]\nwebhook = \"file:///x\"\n".into(), "line 2", "webhook"),
        ("[alerts]\nallow = [\"everything\"]\n".into(), "line 2", "allow"),
        ("[alerts]\nca_file = \"ca.pem\"\n".into(), "line 2", "absolute"),
        ("[node]\nname = \"a\\u001b[2Jb\"\n".into(), "config.toml", "node.name"),
        ("[node]\n\u{1b}[2Jname = 1\n".into(), "line 2", "key"),
    ];
    for (text, place, what) in rows {
        let refused = refusal(text);
        assert!(refused.contains(place) && refused.contains(what), "{text}\n-> {refused}");
        assert!(!refused.contains(char::is_control), "one plain sentence: {refused:?}");
    }
}

#[test]
fn the_environment_replaces_single_values() {
    let text = "[node]\nname = \"a\"\n[[share]]\nname = \"docs\"\npath = \"/d\"\n";
    let config = with_env(
        text,
        &[
            ("HIGHWATER_NODE_NAME", "b"),
            ("HIGHWATER_LISTEN_HTTP", "127.0.0.1:0"),
            ("HIGHWATER_SHARE_RESCAN_INTERVAL", "5s"),
            ("HIGHWATER_CLUSTER_LINKS_MAX", "8"),
            ("HIGHWATER_HOME", "/somewhere"),
            ("PATH", "/bin"),
        ],
    )
    .expect("valid");
    assert_eq!(config.node.name, "b");
    assert_eq!(config.listen.http.port(), 0);
    assert_eq!(config.cluster.links_max, 8);
    assert_eq!(config.shares[0].rescan_interval, Duration::from_secs(5));
}

#[test]
fn alerts_are_on_unless_switched_off_and_their_levels_can_be_set() {
    use highwater_core::alert::Rule;
    let config = with_env(
        "[alerts]\npeer_silent = \"1h\"\noff = [\"conflict\"]\n",
        &[("HIGHWATER_ALERTS_DISK_LOW", "5GB"), ("HIGHWATER_ALERTS_ALLOW", "10.0.0.0/8, ::1")],
    );
    let alerts = config.expect("valid").alerts;
    assert_eq!(alerts.levels(Rule::PeerSilent).map(|levels| levels.fire), Some(3600.0));
    assert_eq!(alerts.levels(Rule::DiskLow).map(|levels| levels.fire), Some(5e9));
    assert_eq!(alerts.levels(Rule::Conflict), None);
    assert_eq!(alerts.levels(Rule::BitRot), Some(Rule::BitRot.levels_default()));
    assert_eq!(alerts.allow.len(), 2);
    let off = parse("[alerts]\nenabled = false\n").expect("valid").alerts;
    assert!(off.levels.is_empty());
}

#[test]
fn the_environment_alone_makes_a_share() {
    let config =
        with_env("", &[("HIGHWATER_SHARE_NAME", "docs"), ("HIGHWATER_SHARE_PATH", "/data")]);
    assert_eq!(config.expect("valid").shares[0].path, Path::new("/data"));
}

#[test]
fn a_variable_that_is_no_key_is_refused_by_its_name() {
    for (name, value) in [
        ("HIGHWATER_NODE_NMAE", "x"),
        ("HIGHWATER_SHARE_", "x"),
        ("HIGHWATER_", "x"),
        ("HIGHWATER_SHARE_PAUSED", "perhaps"),
        ("HIGHWATER_LISTEN_SYNC", "here"),
        ("HIGHWATER_ALERTS_OFF", "conflict,nonsense"),
        ("HIGHWATER_ALERTS_WEBHOOK_URL", "http://example.net"),
    ] {
        let refused = with_env("", &[(name, value)]).expect_err(name).to_string();
        assert!(refused.contains(name), "{refused}");
    }
}

#[test]
fn a_node_shares_neither_its_home_nor_itself() {
    let own = highwater_core::NodeId::of_public_key(b"own");
    let home = Path::new("/home/a/.local/share/highwater");
    let at = |path: &str| {
        parse(&format!("[[share]]\nname = \"s\"\npath = \"{path}\"\n")).expect("valid alone")
    };
    assert!(at("/home/a").check_against(home, &own).is_err(), "the home lies in it");
    assert!(at("/home/a/.local/share/highwater/x").check_against(home, &own).is_err());
    assert!(at("/home/a/docs").check_against(home, &own).is_ok());
    let selfish = parse(&format!("[[peer]]\nid = \"{own}\"\n")).expect("valid alone");
    assert!(selfish.check_against(home, &own).is_err());
}

#[test]
fn shares_that_meet_through_a_symlink_overlap() {
    let dir = tempfile::tempdir().expect("scratch");
    let real = dir.path().join("real");
    std::fs::create_dir(&real).expect("made");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    assert!(overlap(&real, &link.join("deep/er")));
    assert!(!overlap(&real, &dir.path().join("other")));
}
