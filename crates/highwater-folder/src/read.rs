//! Reading contents: hashing and cutting them in one pass, and serving ranges of them to peers.
//!
//! A large content is read and cut on the calling thread and hashed on a second one: cutting is the
//! dearest step, and the two hashes (of each chunk, of the whole) together cost about as much. The
//! buffers go round between the two threads, so a content of any size takes a few megabytes.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use highwater_core::content::CONTENT_BYTES_MAX;
use highwater_core::{Chunk, ChunkId, ContentHash, Cutter, Key, Manifest, SMALL_BYTES_MAX};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::print::{Class, StatPrint};
use crate::root::{Root, open_beneath, proves_absence};

/// Why a content could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing stands under the key.
    #[error("'{0}' is not there any more; it is looked for again at the next scan")]
    Missing(String),
    /// Something else than a regular file stands there.
    #[error("'{0}' is not a regular file any more; it is looked at again at the next scan")]
    NotAFile(String),
    /// The file ended before the size it had: it is being rewritten.
    #[error("the file was cut to {found} of {expected} bytes while it was read; read it again")]
    Shrunk {
        /// The size it had.
        expected: u64,
        /// Where it ended.
        found: u64,
    },
    /// The caller asked to stop.
    #[error("reading was stopped before its end; nothing was recorded")]
    Cancelled,
    /// More chunks than a manifest may have.
    #[error("a content of {0} bytes has more chunks than Highwater handles; ignore or remove it")]
    TooLarge(u64),
    /// The disk, or its permissions, do not let us.
    #[error("cannot read {what}: {source}; correct the permissions or check the disk")]
    Io {
        /// What was read.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl ReadError {
    fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        ReadError::Io { what: what.into(), source: source.into() }
    }
}

/// A file of a share, open for reading.
#[derive(Debug)]
pub struct ContentFile {
    pub(crate) file: File,
    key: Key,
}

impl Root {
    /// Opens the file under `key`, following no link anywhere.
    ///
    /// # Errors
    /// [`ReadError::Missing`], [`ReadError::NotAFile`] or [`ReadError::Io`].
    pub fn open_content(&self, key: &Key) -> Result<ContentFile, ReadError> {
        let fd = open_beneath(self.dir(), key.as_str(), OFlags::RDONLY).map_err(
            |errno| match errno {
                Errno::LOOP | Errno::NXIO => ReadError::NotAFile(key.to_string()),
                errno if proves_absence(errno) => ReadError::Missing(key.to_string()),
                errno => ReadError::io(format!("'{key}'"), errno),
            },
        )?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| ReadError::io(format!("'{key}'"), e))?;
        if Class::of(&stat) != Class::File {
            return Err(ReadError::NotAFile(key.to_string()));
        }
        Ok(ContentFile { file: File::from(fd), key: key.clone() })
    }
}

impl ContentFile {
    /// The print of the open file as it is now. Equal prints before and after a read mean that the
    /// bytes belong to that state.
    ///
    /// # Errors
    /// [`ReadError::Io`].
    pub fn print(&self) -> Result<StatPrint, ReadError> {
        let stat = rustix::fs::fstat(&self.file);
        Ok(StatPrint::of(&stat.map_err(|e| ReadError::io(format!("'{}'", self.key), e))?))
    }

    /// Reads from `offset` until `buffer` is full or the file ends, and says how much that was.
    ///
    /// # Errors
    /// [`ReadError::Io`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        read_full(&self.file, offset, buffer)
            .map_err(|source| ReadError::io(format!("'{}'", self.key), source))
    }
}

pub(crate) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The hash of a file anywhere on this machine, as `b3sum` prints it. For the `hash` command: the
/// path is a user's own, links are followed.
///
/// # Errors
/// [`ReadError::NotAFile`] for anything but a regular file, else as [`read_content`].
pub fn hash_file(path: &Path) -> Result<ContentHash, ReadError> {
    let fails = |source| ReadError::io(path.display().to_string(), source);
    let file = File::open(path).map_err(fails)?;
    let facts = file.metadata().map_err(fails)?;
    if !facts.is_file() {
        return Err(ReadError::NotAFile(PathBuf::from(path).display().to_string()));
    }
    read_content(&file, facts.len()).map(|(content, _)| content)
}

/// The hash of all the bytes that an open file of a share holds now.
///
/// # Errors
/// As [`read_content`].
pub fn hash_content(content: &ContentFile) -> Result<ContentHash, ReadError> {
    read_content(&content.file, content.print()?.size).map(|(found, _)| found)
}

/// Hashes and cuts the first `size` bytes of a file: its content hash, and its manifest when it is
/// larger than [`SMALL_BYTES_MAX`].
///
/// # Errors
/// [`ReadError::Shrunk`] when the file is shorter; [`ReadError::Io`].
pub fn read_content(file: &File, size: u64) -> Result<(ContentHash, Option<Manifest>), ReadError> {
    read_content_watched(file, size, &mut |_| ControlFlow::Continue(()))
}

/// Tells how many bytes were read since the last call; answers whether to go on.
pub(crate) type OnRead<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// From here on a second thread pays for its start.
const TWO_THREADS_FROM: u64 = 8 << 20;

/// Bytes read at a time: large enough to amortise the calls, small enough that what was just read
/// and cut is still in the processor's cache when it is hashed.
const READ_BYTES: usize = 1 << 20;

/// Buffers that travel between the two threads: one being cut, one waiting, one being hashed.
const BUFFERS: usize = 3;

pub(crate) fn read_content_watched(
    file: &File,
    size: u64,
    on_read: OnRead<'_>,
) -> Result<(ContentHash, Option<Manifest>), ReadError> {
    if size > CONTENT_BYTES_MAX {
        return Err(ReadError::TooLarge(size));
    }
    if size <= SMALL_BYTES_MAX {
        return Ok((read_small(file, size as usize, on_read)?, None));
    }
    let mut pieces = Pieces::new(file, size);
    let mut hashes = Hashes::default();
    if size < TWO_THREADS_FROM {
        let mut buffer = Vec::new();
        while let Some(piece) = pieces.next(buffer, on_read)? {
            hashes.take(&piece);
            buffer = piece.buffer;
        }
    } else {
        hashes = hash_beside(hashes, |send, back| {
            while let Some(piece) = pieces.next(back.recv().unwrap_or_default(), on_read)? {
                if send.send(piece).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
    }
    let content = ContentHash::from_bytes(*hashes.whole.finalize().as_bytes());
    let manifest = Manifest::new(content, hashes.chunks).ok_or(ReadError::TooLarge(size))?;
    Ok((content, Some(manifest)))
}

fn read_small(file: &File, size: usize, on_read: OnRead<'_>) -> Result<ContentHash, ReadError> {
    let mut bytes = vec![0; size];
    let found = read_full(file, 0, &mut bytes).map_err(|e| ReadError::io("the file", e))?;
    if found < size {
        return Err(ReadError::Shrunk { expected: size as u64, found: found as u64 });
    }
    if on_read(size as u64).is_break() {
        return Err(ReadError::Cancelled);
    }
    Ok(ContentHash::of(&bytes))
}

/// Runs `produce` here and the hashing of what it sends on a second thread.
fn hash_beside(
    mut hashes: Hashes,
    produce: impl FnOnce(SyncSender<Piece>, Receiver<Vec<u8>>) -> Result<(), ReadError>,
) -> Result<Hashes, ReadError> {
    let (send, pieces) = sync_channel::<Piece>(BUFFERS);
    let (give_back, back) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for all of them, and the other end is held here.
        let _ = give_back.send(Vec::new());
    }
    thread::scope(|scope| {
        let hasher = scope.spawn(move || {
            for piece in pieces {
                hashes.take(&piece);
                // The producer may have stopped early; then nobody needs the buffer.
                let _ = give_back.send(piece.buffer);
            }
            hashes
        });
        let produced = produce(send, back);
        match hasher.join() {
            Ok(hashes) => produced.map(|()| hashes),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A stretch of a content: whole chunks, and the beginning of the next.
struct Piece {
    buffer: Vec<u8>,
    /// Where the bytes begin that no earlier piece had.
    fresh: usize,
    /// The chunks that end in this piece.
    chunks: Vec<Range<usize>>,
}

/// Reads a file in stretches and cuts them.
struct Pieces<'a> {
    file: &'a File,
    size: u64,
    read: u64,
    cutter: Cutter,
    /// The bytes behind the last cut: the next piece begins with them.
    rest: Vec<u8>,
}

impl<'a> Pieces<'a> {
    fn new(file: &'a File, size: u64) -> Self {
        Self { file, size, read: 0, cutter: Cutter::for_content(size), rest: Vec::new() }
    }

    fn next(
        &mut self,
        mut buffer: Vec<u8>,
        on_read: OnRead<'_>,
    ) -> Result<Option<Piece>, ReadError> {
        if self.read == self.size {
            return Ok(None);
        }
        let fresh = self.rest.len();
        let wanted = (self.size - self.read).min((READ_BYTES + self.cutter.lookahead()) as u64);
        // Stretches are equally long but for the last, so this writes zeros only into new buffers.
        buffer.resize(fresh + wanted as usize, 0);
        buffer[..fresh].copy_from_slice(&self.rest);
        let found = read_full(self.file, self.read, &mut buffer[fresh..])
            .map_err(|source| ReadError::io("the file", source))?;
        self.read += found as u64;
        if (found as u64) < wanted {
            return Err(ReadError::Shrunk { expected: self.size, found: self.read });
        }
        if on_read(found as u64).is_break() {
            return Err(ReadError::Cancelled);
        }
        let chunks = self.cut(&buffer);
        self.rest.clear();
        self.rest.extend_from_slice(&buffer[chunks.last().map_or(0, |last| last.end)..]);
        Ok(Some(Piece { buffer, fresh, chunks }))
    }

    fn cut(&self, buffer: &[u8]) -> Vec<Range<usize>> {
        let at_end = self.read == self.size;
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < buffer.len() && (at_end || buffer.len() - start >= self.cutter.lookahead()) {
            let length = self.cutter.next(&buffer[start..]);
            chunks.push(start..start + length);
            start += length;
        }
        chunks
    }
}

/// What is known of a content after some of its pieces.
#[derive(Default)]
struct Hashes {
    whole: blake3::Hasher,
    chunks: Vec<Chunk>,
}

impl Hashes {
    fn take(&mut self, piece: &Piece) {
        self.whole.update(&piece.buffer[piece.fresh..]);
        for range in &piece.chunks {
            let length = (range.end - range.start) as u32;
            self.chunks.push(Chunk { id: ChunkId::of(&piece.buffer[range.clone()]), length });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("temp file");
        file.write_all(bytes).expect("write");
        file
    }

    #[test]
    fn one_pass_gives_the_hash_and_the_chunks_of_the_plain_way() {
        let two_threads = TWO_THREADS_FROM as usize;
        for length in [65_537, 300_000, 3 << 20, two_threads - 1, two_threads, 20_000_001] {
            let bytes = noise(length);
            let (content, manifest) = read_content(&file_of(&bytes), length as u64).expect("read");
            assert_eq!(content, ContentHash::of(&bytes), "{length}");
            let manifest = manifest.expect("manifest");
            let cutter = Cutter::for_content(length as u64);
            let mut rest = &bytes[..];
            for chunk in manifest.chunks() {
                let (now, later) = rest.split_at(cutter.next(rest));
                assert_eq!((chunk.id, chunk.length as usize), (ChunkId::of(now), now.len()));
                rest = later;
            }
            assert!(rest.is_empty(), "{length}");
        }
    }

    #[test]
    fn a_small_content_has_a_hash_and_no_manifest() {
        for length in [0, 1, SMALL_BYTES_MAX as usize] {
            let bytes = noise(length);
            let read = read_content(&file_of(&bytes), length as u64).expect("read");
            assert_eq!(read, (ContentHash::of(&bytes), None));
        }
    }

    #[test]
    fn a_file_cut_short_while_it_is_read_is_said_to_have_shrunk() {
        for (length, expected) in [(10, 20), (70_000, 80_000), (9 << 20, 10 << 20)] {
            let read = read_content(&file_of(&noise(length)), expected);
            assert!(matches!(read, Err(ReadError::Shrunk { .. })), "{length}: {read:?}");
        }
    }

    /// A sparse file of the largest size there is was read to its end, and kept its share from
    /// ever being scanned.
    #[test]
    fn a_file_larger_than_a_manifest_can_name_is_refused_before_it_is_read() {
        let file = file_of(b"");
        for size in [CONTENT_BYTES_MAX + 1, i64::MAX as u64] {
            let read =
                read_content_watched(&file, size, &mut |_| panic!("a byte of {size} was read"));
            assert!(matches!(read, Err(ReadError::TooLarge(_))), "{size}: {read:?}");
        }
    }

    #[test]
    fn reading_stops_when_it_is_told_to() {
        let bytes = noise(20 << 20);
        let mut calls = 0;
        let read = read_content_watched(&file_of(&bytes), bytes.len() as u64, &mut |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(read, Err(ReadError::Cancelled)));
        assert_eq!(calls, 2);
    }
}
