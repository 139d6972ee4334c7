//! The command line's end of the control socket. It blocks: a command has nothing else to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{REPLY_BYTES_MAX, Reply, Request};
use crate::home::Home;

/// A daemon that is busy with a scan may take its time; one that says nothing for this long hangs.
const REPLY_WAIT: Duration = Duration::from_secs(60);

/// Why a daemon did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "cannot reach the daemon of {}: {reason}; start it with `highwater run`",
        dir.display()
    )]
    Unreachable {
        /// The home.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It answered, and then stopped.
    #[error("the daemon of {} stopped answering: {reason}", dir.display())]
    Broken {
        /// The home.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
    /// It refused or failed, in its own words.
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon of one home.
#[derive(Clone, Debug)]
pub struct Client {
    home: Home,
}

/// What to do after an item.
pub type Next = std::ops::ControlFlow<()>;

impl Client {
    /// A client of the daemon of `home`. Nothing is asked yet.
    pub fn new(home: &Home) -> Self {
        Self { home: home.clone() }
    }

    /// Asks for something whose answer is one item.
    ///
    /// # Errors
    /// When the daemon is not there, refuses, or answers otherwise.
    pub fn one<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ControlError> {
        let mut found = None;
        self.each(request, |item| {
            found = Some(item);
            Next::Continue(())
        })?;
        found.ok_or_else(|| self.broken("it sent no answer"))
    }

    /// Asks for something that is only done or not.
    ///
    /// # Errors
    /// When the daemon is not there or refuses.
    pub fn order(&self, request: &Request) -> Result<(), ControlError> {
        self.each(request, |_: serde_json::Value| Next::Continue(()))
    }

    /// Asks for something whose answer is any number of items, until `take` breaks off.
    ///
    /// # Errors
    /// When the daemon is not there, refuses, stops, or answers otherwise.
    pub fn each<T: DeserializeOwned>(
        &self,
        request: &Request,
        mut take: impl FnMut(T) -> Next,
    ) -> Result<(), ControlError> {
        let mut stream = self.connect().map_err(|e| self.unreachable(&e))?;
        let follows = matches!(
            request,
            Request::Transfers { follow: true } | Request::Log { follow: true, .. }
        );
        stream
            .set_read_timeout((!follows).then_some(REPLY_WAIT))
            .and_then(|()| serde_json::to_vec(request).map_err(io::Error::from))
            .and_then(|mut line| {
                line.push(b'\n');
                stream.write_all(&line)
            })
            .map_err(|e| self.unreachable(&e))?;
        let mut read = BufReader::new(stream);
        loop {
            match self.reply(&mut read)? {
                Reply::Item(item) => {
                    let item = serde_json::from_value(item)
                        .map_err(|e| self.broken(format!("its answer is of another kind: {e}")))?;
                    if take(item).is_break() {
                        return Ok(());
                    }
                }
                Reply::Done => return Ok(()),
                Reply::Failed(why) => return Err(ControlError::Refused(why)),
            }
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let socket = self.home.control_socket()?;
        UnixStream::connect(socket.as_path())
    }

    fn reply(&self, read: &mut BufReader<UnixStream>) -> Result<Reply, ControlError> {
        let mut line = Vec::new();
        let read = read.take(REPLY_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => self.broken("it said nothing for a minute"),
            _ => self.broken(e),
        })?;
        if line.last() != Some(&b'\n') {
            return Err(self.broken("it hung up; is it still running?"));
        }
        serde_json::from_slice(&line).map_err(|e| self.broken(format!("bad answer: {e}")))
    }

    fn unreachable(&self, error: &io::Error) -> ControlError {
        let reason = match error.kind() {
            io::ErrorKind::NotFound if !self.home.config_path().exists() => {
                "there is no node here yet (`highwater init` makes one)".to_owned()
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "it is not running".to_owned()
            }
            _ => error.to_string(),
        };
        ControlError::Unreachable { dir: self.home.dir().to_owned(), reason }
    }

    fn broken(&self, reason: impl ToString) -> ControlError {
        ControlError::Broken { dir: self.home.dir().to_owned(), reason: reason.to_string() }
    }
}
