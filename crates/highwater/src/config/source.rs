//! Where in the file a value stood, for errors that name the key and the line.

use std::ops::Range;
use std::path::Path;

use super::ConfigError;

/// The text that values came from, to say where.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl Source<'_> {
    /// An error at the value that stood at `span`.
    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        // A value from the environment has no span in the file.
        let place = if span.is_empty() {
            self.path.display().to_string()
        } else {
            format!("{} line {}", self.path.display(), self.line(span.start))
        };
        ConfigError { place, message: plain(&message.into()) }
    }

    /// What the parser found wrong, as one sentence that names the key.
    pub(super) fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        let message = advised(error.message().replace('\n', ", "));
        let Some(span) = error.span() else { return self.error(0..0, message) };
        let key = self.key_at(span.start).filter(|key| !message.contains(&format!("`{key}`")));
        let message = key.map_or(message.clone(), |key| format!("{key}: {message}"));
        let offset = span.start.min(self.text.len().saturating_sub(1));
        self.error(offset..offset + 1, message)
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.bytes().filter(|&b| b == b'\n').count() + 1
    }

    /// The key of the assignment that `offset` lies in, or the table whose heading it lies in.
    fn key_at(&self, offset: usize) -> Option<&str> {
        let start = self.text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.get(start..)?.lines().next()?.trim();
        if line.starts_with('[') {
            return line.find(']').map(|end| line[..end].trim_start_matches('[').trim());
        }
        let (key, _) = line.split_once('=')?;
        Some(key.trim())
    }
}

/// What the parser says, and what to do where its words leave that open.
fn advised(message: String) -> String {
    if message == "duplicate key" { format!("{message}; keep one of the two") } else { message }
}

/// A text that quotes what it refuses, without what would move the cursor of a terminal.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
