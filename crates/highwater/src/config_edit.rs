//! Changes to `config.toml` that keep its comments, one editor at a time.
//!
//! An edit takes the configuration's lock, works on the parsed document, and is committed only when
//! the whole would be accepted by a daemon. The file is replaced in one step, durably: whoever
//! reads it sees the old or the new configuration, also after a power cut. An edit that is dropped
//! changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use highwater_core::{NodeId, ShareName};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use crate::config::{self, Config, ConfigError, ListenConfig, NodeConfig, ShareMode};
use crate::home::{Home, HomeError, HomeLock};

/// Why a change was not made. The configuration is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The home cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration is not valid, or would not be after the change.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is a configuration already.
    #[error("there is a node in {} already; choose another --home", .0.display())]
    Exists(PathBuf),
    /// Two shares cannot have one name.
    #[error("there is a share named {0} already; choose another name")]
    ShareExists(ShareName),
    /// No such share.
    #[error("there is no share named {0}; see `highwater share list`")]
    NoShare(ShareName),
    /// No such peer.
    #[error("there is no peer {0}; see `highwater peer list`")]
    NoPeer(NodeId),
    /// A node cannot be its own peer.
    #[error("{0} is this node itself; a peer is another node")]
    OwnId(NodeId),
    /// The address cannot be dialled.
    #[error("the peer's address: {0}")]
    Addr(String),
    /// This directory cannot be shared.
    #[error("cannot share {}: {reason}", path.display())]
    Root {
        /// Which directory.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A table is written in a form that this editor does not change.
    #[error("cannot edit `{0}` in config.toml: write it as [[{0}]] tables")]
    Form(&'static str),
    /// The file could not be replaced.
    #[error("cannot replace {}: {source}", path.display())]
    Replace {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes the first configuration of a home that has none.
///
/// # Errors
/// [`EditError::Exists`] when there is one, or what the file system says.
pub fn create(home: &Home, node: &NodeConfig, listen: &ListenConfig) -> Result<(), EditError> {
    let _lock = home.lock_config()?;
    if home.config_path().exists() {
        return Err(EditError::Exists(home.dir().to_owned()));
    }
    let mut document = DocumentMut::new();
    document["node"] = Item::Table(Table::new());
    document["node"]["name"] = value(&node.name);
    document["node"]["user"] = value(&node.user);
    document["listen"] = Item::Table(Table::new());
    document["listen"]["sync"] = value(listen.sync.to_string());
    document["listen"]["http"] = value(listen.http.to_string());
    let text = format!(
        "# The configuration of this Highwater node. Shares and peers are added with\n\
         # `highwater share add` and `highwater peer add`.\n\n{document}"
    );
    Config::parse(&text, &home.config_path(), [])?;
    replace(&home.config_path(), &text)
}

/// One change in the making.
#[derive(Debug)]
pub struct ConfigEdit {
    home: Home,
    own_id: NodeId,
    config: Config,
    document: DocumentMut,
    _lock: HomeLock,
}

/// What is to be known about a peer. What is left out stays as it is.
#[derive(Clone, Debug)]
pub struct PeerChange {
    /// Which peer.
    pub id: NodeId,
    /// Its name, for people.
    pub name: Option<String>,
    /// Where to dial it.
    pub addr: Option<String>,
    /// Shares to exchange with it, besides those there are.
    pub shares: Vec<ShareName>,
}

impl ConfigEdit {
    /// Begins a change of the configuration of `home`, whose node is `own_id`. Waits for another
    /// editor to finish.
    ///
    /// # Errors
    /// When the configuration cannot be read or is not valid as it stands.
    pub fn begin(home: &Home, own_id: NodeId) -> Result<Self, EditError> {
        if !home.config_path().exists() {
            return Err(HomeError::NotInitialised { dir: home.dir().to_owned() }.into());
        }
        let lock = home.lock_config()?;
        let path = home.config_path();
        let text = config::read(&path)?;
        let config = Config::parse(&text, &path, [])?;
        let document = text.parse().map_err(|e: toml_edit::TomlError| ConfigError {
            place: path.display().to_string(),
            message: e.message().to_owned(),
        })?;
        Ok(Self { home: home.clone(), own_id, config, document, _lock: lock })
    }

    /// Adds a share of the directory `path`, which is made when its parent exists. Returns where
    /// the directory really lies.
    ///
    /// # Errors
    /// When the name is taken or the directory cannot be shared.
    pub fn add_share(
        &mut self,
        name: &ShareName,
        path: &Path,
        mode: ShareMode,
    ) -> Result<PathBuf, EditError> {
        if self.config.share(name).is_some() {
            return Err(EditError::ShareExists(name.clone()));
        }
        let root = self.prepare_root(path)?;
        let text = root.to_str().ok_or_else(|| EditError::Root {
            path: root.clone(),
            reason: "its path is not UTF-8; rename it".to_owned(),
        })?;
        let mut table = Table::new();
        table["name"] = value(name.as_str());
        table["path"] = value(text);
        table["mode"] = value(mode.as_str());
        tables(&mut self.document, "share")?.push(table);
        Ok(root)
    }

    /// Removes a share, here and from every peer's list. Its files stay.
    ///
    /// # Errors
    /// When there is no such share.
    pub fn remove_share(&mut self, name: &ShareName) -> Result<(), EditError> {
        let index = self.share_index(name)?;
        tables(&mut self.document, "share")?.remove(index);
        for peer in tables(&mut self.document, "peer")?.iter_mut() {
            if let Some(shares) = peer.get_mut("shares").and_then(Item::as_array_mut) {
                shares.retain(|share| share.as_str() != Some(name.as_str()));
            }
        }
        Ok(())
    }

    /// Stops a share until it is resumed, or resumes it.
    ///
    /// # Errors
    /// When there is no such share.
    pub fn set_paused(&mut self, name: &ShareName, paused: bool) -> Result<(), EditError> {
        let index = self.share_index(name)?;
        if let Some(share) = tables(&mut self.document, "share")?.get_mut(index) {
            if paused {
                share["paused"] = value(true);
            } else {
                share.remove("paused");
            }
        }
        Ok(())
    }

    /// Adds a peer, or what is new about one that is known.
    ///
    /// # Errors
    /// When it is this node itself, or a share or the address is not valid.
    pub fn add_peer(&mut self, change: &PeerChange) -> Result<(), EditError> {
        if change.id == self.own_id {
            return Err(EditError::OwnId(change.id));
        }
        if let Some(unknown) = change.shares.iter().find(|s| self.config.share(s).is_none()) {
            return Err(EditError::NoShare(unknown.clone()));
        }
        if let Some(addr) = &change.addr {
            config::check_host_port(addr).map_err(EditError::Addr)?;
        }
        let known = self.config.peers.iter().position(|peer| peer.id == change.id);
        let peers = tables(&mut self.document, "peer")?;
        if known.is_none() {
            let mut table = Table::new();
            table["id"] = value(change.id.to_string());
            peers.push(table);
        }
        let index = known.unwrap_or(peers.len() - 1);
        if let Some(peer) = peers.get_mut(index) {
            write_peer(peer, change);
        }
        Ok(())
    }

    /// Removes a peer.
    ///
    /// # Errors
    /// When there is no such peer.
    pub fn remove_peer(&mut self, id: NodeId) -> Result<(), EditError> {
        let known = self.config.peers.iter().position(|peer| peer.id == id);
        let index = known.ok_or(EditError::NoPeer(id))?;
        tables(&mut self.document, "peer")?.remove(index);
        Ok(())
    }

    /// Puts the change in place, if a daemon would accept the whole.
    ///
    /// # Errors
    /// What is wrong with the whole, or with the file system.
    pub fn commit(self) -> Result<Config, EditError> {
        let text = self.document.to_string();
        let config = Config::parse(&text, &self.home.config_path(), [])?;
        config.check_against(self.home.dir(), &self.own_id)?;
        replace(&self.home.config_path(), &text)?;
        Ok(config)
    }

    fn share_index(&self, name: &ShareName) -> Result<usize, EditError> {
        let index = self.config.shares.iter().position(|share| share.name == *name);
        index.ok_or_else(|| EditError::NoShare(name.clone()))
    }

    /// Judges a directory before anything is made, makes it if need be, and resolves it.
    fn prepare_root(&self, path: &Path) -> Result<PathBuf, EditError> {
        let refuse = |reason: &str| EditError::Root { path: path.into(), reason: reason.into() };
        let failed = |e: io::Error| EditError::Root { path: path.into(), reason: e.to_string() };
        let path = std::path::absolute(path).map_err(failed)?;
        if path.exists() && !path.is_dir() {
            return Err(refuse("it is not a directory"));
        }
        if !path.exists() && !path.parent().is_some_and(Path::is_dir) {
            return Err(refuse("neither it nor its parent exists; make the parent first"));
        }
        let real = config::resolved(&path);
        if real.parent().is_none() {
            return Err(refuse("it is the root of the file system; share a directory in it"));
        }
        if SYSTEM_TREES.iter().any(|tree| real.starts_with(tree)) {
            return Err(refuse("it belongs to the kernel and holds no files of yours"));
        }
        if config::overlap(&real, self.home.dir()) {
            return Err(refuse("it and this node's home lie in one another; move one of them"));
        }
        if let Some(other) = self.config.shares.iter().find(|s| config::overlap(&s.path, &real)) {
            let reason = format!("it and share {} lie in one another", other.name);
            return Err(EditError::Root { path: real, reason });
        }
        fs::create_dir_all(&real).map_err(failed)?;
        real.canonicalize().map_err(failed)
    }
}

/// Directories whose entries are not files that anyone could sync.
const SYSTEM_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

fn write_peer(peer: &mut Table, change: &PeerChange) {
    if let Some(name) = &change.name {
        peer["name"] = value(name);
    }
    if let Some(addr) = &change.addr {
        peer["addr"] = value(addr);
    }
    let shares = peer.entry("shares").or_insert_with(|| value(Array::new()));
    let Some(shares) = shares.as_array_mut() else { return };
    for share in &change.shares {
        if !shares.iter().any(|listed| listed.as_str() == Some(share.as_str())) {
            shares.push(share.as_str());
        }
    }
}

fn tables<'a>(
    document: &'a mut DocumentMut,
    section: &'static str,
) -> Result<&'a mut ArrayOfTables, EditError> {
    document
        .entry(section)
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or(EditError::Form(section))
}

/// Replaces the file in one step that a power cut does not undo. A link to the file, as those who
/// keep their settings elsewhere have it, stays a link.
fn replace(path: &Path, text: &str) -> Result<(), EditError> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    write_and_rename(&real, text).map_err(|source| EditError::Replace { path: real, source })
}

fn write_and_rename(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("toml.new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
