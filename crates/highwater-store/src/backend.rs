//! What the store asks of a database: an ordered map of bytes, changed atomically, durable when
//! synced.

use std::fmt::Debug;
use std::io;

/// Changes that are applied together: a value, or `None` to remove.
pub(crate) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;
/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);
/// Rows in key order, from either end.
pub(crate) type Rows = Box<dyn DoubleEndedIterator<Item = Result<Row, DatabaseError>>>;

/// Why the database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
}

/// An ordered map of bytes.
pub(crate) trait Backend: Debug + Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DatabaseError>;

    /// The rows from `from` on and before `end`, in order.
    fn scan(&self, from: Vec<u8>, end: Option<Vec<u8>>) -> Rows;

    /// Applies changes atomically. They are written, not yet durable.
    fn apply(&self, changes: Changes) -> Result<(), DatabaseError>;

    /// Makes everything that was applied durable.
    fn sync(&self) -> Result<(), DatabaseError>;
}

impl dyn Backend {
    /// The rows whose keys begin with `prefix`, from `from` on, in order.
    pub(crate) fn rows(&self, prefix: &[u8], from: &[u8]) -> Rows {
        let (from, end) = (from.max(prefix).to_vec(), end_of(prefix));
        match end {
            Some(end) if from >= end => Box::new(std::iter::empty()),
            end => self.scan(from, end),
        }
    }
}

/// The first key behind all that begin with `prefix`.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}
