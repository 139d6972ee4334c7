//! Contradictions: settings that are valid alone and not together.

use toml::Spanned;

use super::file::FileConfig;
use super::source::Source;
use super::{Config, ConfigError, overlap};

/// Finds the first contradiction in `config`, which was made from `file`.
pub(super) fn whole(
    source: &Source<'_>,
    config: &Config,
    file: &FileConfig,
) -> Result<(), ConfigError> {
    check_people_names(source, config)?;
    check_shares(source, config, file)?;
    check_peers(source, config, file)
}

/// Longest name of a node or user, in characters: fits a table column.
const PEOPLE_NAME_CHARS_MAX: usize = 64;

fn check_people_names(source: &Source<'_>, config: &Config) -> Result<(), ConfigError> {
    let own = [("node.name", &config.node.name), ("node.user", &config.node.user)];
    for (key, name) in own.into_iter().chain(config.peers.iter().map(|p| ("peer.name", &p.name))) {
        let length = name.chars().count();
        if length == 0 || length > PEOPLE_NAME_CHARS_MAX || name.chars().any(char::is_control) {
            let rule = format!("{key}: 1 to {PEOPLE_NAME_CHARS_MAX} printable characters");
            return Err(source.error(0..0, rule));
        }
    }
    Ok(())
}

fn check_shares(
    source: &Source<'_>,
    config: &Config,
    file: &FileConfig,
) -> Result<(), ConfigError> {
    for (index, share) in config.shares.iter().enumerate() {
        let table = &file.shares[index];
        let path_span = table.path.as_ref().map_or(0..0, Spanned::span);
        if !share.path.is_absolute() {
            let message =
                format!("path: {} is not absolute; start it with /", share.path.display());
            return Err(source.error(path_span, message));
        }
        for other in &config.shares[..index] {
            if other.name == share.name {
                let span = table.name.as_ref().map_or(0..0, Spanned::span);
                let message = format!("name: there are two shares named {}", share.name);
                return Err(source.error(span, message));
            }
            if overlap(&other.path, &share.path) {
                let message = format!(
                    "path: shares {} and {} lie in one another; give each its own directory",
                    other.name, share.name
                );
                return Err(source.error(path_span, message));
            }
        }
    }
    Ok(())
}

fn check_peers(source: &Source<'_>, config: &Config, file: &FileConfig) -> Result<(), ConfigError> {
    for (index, peer) in config.peers.iter().enumerate() {
        let table = &file.peers[index];
        if config.peers[..index].iter().any(|other| other.id == peer.id) {
            let span = table.id.as_ref().map_or(0..0, Spanned::span);
            return Err(source.error(span, format!("id: peer {} is listed twice", peer.id)));
        }
        for share in table.shares.iter().flatten() {
            if config.share(share.get_ref()).is_none() {
                let message = format!(
                    "shares: there is no share named {}; add it with `highwater share add`",
                    share.get_ref()
                );
                return Err(source.error(share.span(), message));
            }
        }
    }
    Ok(())
}
