//! Commands that change what the owner decided: `init`, `id`, `share` and `peer`.
//!
//! They work on the configuration file, whether the daemon runs or not, and then tell a running
//! daemon to read it again.

use std::path::Path;

use highwater::config::{Config, ListenConfig, NodeConfig};
use highwater::config_edit::{self, ConfigEdit, EditError, PeerChange};
use highwater::control::{Client, ControlError, Request};
use highwater::home::{Home, HomeError, Identity};
use highwater_core::{NodeId, ShareName};
use serde_json::json;

use crate::args::{InitArgs, PeerCommand, ShareCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{escaped, table};

/// Makes a node.
pub(crate) fn init(home: &Home, args: &InitArgs, output: &mut Output) -> Result<(), Failure> {
    if home.config_path().exists() {
        return Err(EditError::Exists(home.dir().to_owned()).into());
    }
    home.create()?;
    let node = NodeConfig {
        name: args.name.clone().unwrap_or_else(host_name),
        user: args.user.clone().unwrap_or_else(user_name),
    };
    let listen = ListenConfig { sync: args.sync, http: args.http };
    // An interrupted init leaves an identity without a configuration; it is taken up again.
    let identity =
        Identity::load(&home.identity_dir()).or_else(|_| Identity::create(&home.identity_dir()))?;
    config_edit::create(home, &node, &listen)?;
    let id = identity.node_id();
    if output.is_json() {
        return output.json(&json!({
            "node_id": id.to_string(),
            "home": home.dir().to_string_lossy(),
            "name": node.name,
            "user": node.user,
            "sync": listen.sync.to_string(),
            "http": listen.http.to_string(),
        }));
    }
    output.line(id)
}

/// Prints the node id.
pub(crate) fn id(home: &Home, output: &mut Output) -> Result<(), Failure> {
    let id = own_id(home)?;
    if output.is_json() {
        output.json(&json!({"node_id": id.to_string()}))
    } else {
        output.line(id)
    }
}

/// Manages shared folders.
pub(crate) fn share(
    home: &Home,
    command: ShareCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        ShareCommand::List => list_shares(home, output),
        ShareCommand::Add { name, path, mode } => {
            let mut edit = begin(home)?;
            let root = edit.add_share(&name, &path, mode)?;
            commit(home, edit)?;
            let root = escaped(&root.to_string_lossy());
            said(output, format!("{name} is shared from {root}; add a peer for it"))
        }
        ShareCommand::Remove { name } => {
            let mut edit = begin(home)?;
            edit.remove_share(&name)?;
            commit(home, edit)?;
            said(output, format!("{name} is no longer shared; its files were not touched"))
        }
        ShareCommand::Pause { name } => set_paused(home, &name, true, output),
        ShareCommand::Resume { name } => set_paused(home, &name, false, output),
        ShareCommand::Confirm { name } => {
            let entries: u64 = Client::new(home).one(&Request::Confirm { share: name.clone() })?;
            settled(output, entries, format!("{entries} deletes of {name} go out"))
        }
        ShareCommand::Revert { name } => {
            let entries: u64 = Client::new(home).one(&Request::Revert { share: name.clone() })?;
            settled(output, entries, format!("{entries} entries of {name} are fetched again"))
        }
    }
}

/// Manages peers.
pub(crate) fn peer(home: &Home, command: PeerCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        PeerCommand::List => list_peers(home, output),
        PeerCommand::Add { id, addr, name, shares } => {
            let mut edit = begin(home)?;
            edit.add_peer(&PeerChange { id, name, addr, shares })?;
            let config = commit(home, edit)?;
            // Who lists a node again wants it back. Nearly always it was not removed, and there is
            // nothing to take back; without a daemon the next `peer add` does it.
            let _ = Client::new(home).order(&Request::ClusterReadmit { node: id });
            let known = config.peers.iter().find(|peer| peer.id == id);
            let shares = known.map(|peer| joined(&peer.shares)).unwrap_or_default();
            let shares = if shares.is_empty() { "nothing yet".to_owned() } else { shares };
            let tag = id.tag();
            said(output, format!("peer {tag} is listed for: {shares}; it must list this node too"))
        }
        PeerCommand::Remove { id } => {
            let mut edit = begin(home)?;
            edit.remove_peer(id)?;
            commit(home, edit)?;
            said(output, format!("peer {} is forgotten", id.tag()))
        }
    }
}

fn list_shares(home: &Home, output: &mut Output) -> Result<(), Failure> {
    let config = load(home)?;
    if output.is_json() {
        let shares: Vec<_> = config
            .shares
            .iter()
            .map(|share| {
                json!({
                    "name": share.name, "path": share.path, "mode": share.mode,
                    "paused": share.paused,
                })
            })
            .collect();
        return output.json(&json!({"shares": shares}));
    }
    let rows: Vec<_> = config
        .shares
        .iter()
        .map(|share| {
            let paused = if share.paused { " (paused)" } else { "" };
            let path = escaped(&share.path.to_string_lossy());
            [share.name.to_string(), format!("{}{paused}", share.mode), path]
        })
        .collect();
    print_table(output, table(["SHARE", "MODE", "PATH"], &rows))
}

fn list_peers(home: &Home, output: &mut Output) -> Result<(), Failure> {
    let config = load(home)?;
    if output.is_json() {
        let peers: Vec<_> = config
            .peers
            .iter()
            .map(|peer| {
                json!({
                    "node_id": peer.id.to_string(), "name": peer.name, "addr": peer.addr,
                    "shares": peer.shares,
                })
            })
            .collect();
        return output.json(&json!({"peers": peers}));
    }
    let rows: Vec<_> = config
        .peers
        .iter()
        .map(|peer| {
            let addr = peer.addr.clone().unwrap_or_else(|| "(waits for it)".to_owned());
            [escaped(&peer.name), addr, joined(&peer.shares), peer.id.to_string()]
        })
        .collect();
    print_table(output, table(["PEER", "ADDRESS", "SHARES", "NODE ID"], &rows))
}

fn set_paused(
    home: &Home,
    name: &ShareName,
    paused: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut edit = begin(home)?;
    edit.set_paused(name, paused)?;
    commit(home, edit)?;
    said(output, format!("{name} is {}", if paused { "paused" } else { "resumed" }))
}

fn own_id(home: &Home) -> Result<NodeId, Failure> {
    if !home.config_path().exists() {
        return Err(HomeError::NotInitialised { dir: home.dir().to_owned() }.into());
    }
    Ok(Identity::load(&home.identity_dir())?.node_id())
}

fn load(home: &Home) -> Result<Config, Failure> {
    own_id(home)?;
    Ok(Config::load(&home.config_path())?)
}

fn begin(home: &Home) -> Result<ConfigEdit, Failure> {
    Ok(ConfigEdit::begin(home, own_id(home)?)?)
}

/// Puts the change in place and tells a running daemon.
fn commit(home: &Home, edit: ConfigEdit) -> Result<Config, Failure> {
    let config = edit.commit()?;
    match Client::new(home).order(&Request::Reload) {
        // A daemon that does not run reads the file when it starts.
        Ok(()) | Err(ControlError::Unreachable { .. }) => Ok(config),
        Err(e) => Err(Failure::failed(format!(
            "the change is in {}, but the running daemon did not take it over: {e}",
            home.config_path().display()
        ))),
    }
}

fn joined(shares: &[ShareName]) -> String {
    shares.iter().map(ShareName::as_str).collect::<Vec<_>>().join(", ")
}

fn print_table(output: &mut Output, lines: Vec<String>) -> Result<(), Failure> {
    let mut lines = lines.into_iter();
    if let Some(heading) = lines.next() {
        output.heading(heading)?;
    }
    lines.try_for_each(|line| output.line(line))
}

fn said(output: &mut Output, sentence: String) -> Result<(), Failure> {
    if output.is_json() {
        output.json(&json!({"done": true, "message": sentence}))
    } else {
        output.line(sentence)
    }
}

fn settled(output: &mut Output, entries: u64, sentence: String) -> Result<(), Failure> {
    if output.is_json() {
        output.json(&json!({"done": true, "entries": entries}))
    } else {
        output.line(sentence)
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    named(Path::new(name.trim()), "node")
}

fn user_name() -> String {
    let name = ["USER", "LOGNAME"].into_iter().find_map(std::env::var_os).unwrap_or_default();
    named(Path::new(&name), "user")
}

fn named(found: &Path, otherwise: &str) -> String {
    match found.to_str() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => otherwise.to_owned(),
    }
}
