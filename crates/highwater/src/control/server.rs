//! The daemon's end of the control socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use highwater_core::id::ParseIdError;
use highwater_core::{Seq, ShareName};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use super::{REQUEST_BYTES_MAX, Reply, Request};
use crate::check::CheckSpec;
use crate::check::report::{CheckReport, CheckState, Origin};
use crate::config::{Config, ConfigError};
use crate::engine::{Engine, EngineError};
use crate::home::{Home, HomeError};

/// Connections served at once: one person's terminals and scripts.
const CONNECTIONS_MAX: usize = 32;
/// A client that connects asks at once; one that has not by now never will.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// A reader that takes nothing for this long has been forgotten.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// Rows of the log fetched at a time.
const LOG_PAGE_ROWS: usize = 512;
/// Between two answers of a followed request: fast for an eye, slow for a processor.
const FOLLOW_PAUSE: Duration = Duration::from_millis(250);
/// After a failed accept, such as too many open files: it will not be better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a running daemon kept its old configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new one is not valid.
    #[error("the configuration was not taken over: {0}")]
    Config(#[from] ConfigError),
    /// The engine refused it.
    #[error("the configuration was not taken over: {0}")]
    Engine(#[from] EngineError),
}

/// Reads the configuration of `home` again and hands it to the running engine.
///
/// # Errors
/// What is wrong with it; the engine then goes on with the old one.
pub async fn reload(home: &Home, engine: &Engine) -> Result<(), ReloadError> {
    let config = Config::load(&home.config_path())?;
    config.check_against(home.dir(), &engine.node_id())?;
    Ok(engine.reload(config).await?)
}

/// Serves the control socket of one home until it is shut down.
#[derive(Debug)]
pub struct ControlServer {
    home: Home,
    accept: JoinHandle<()>,
    stop: Arc<Notify>,
}

impl ControlServer {
    /// Takes the socket of `home`, whose lock the caller holds: a socket that is there was left by
    /// a daemon that is gone.
    ///
    /// # Errors
    /// What the file system says.
    pub fn start(home: &Home, engine: Engine) -> Result<Self, HomeError> {
        let listener = bind(home).map_err(|source| HomeError::Io {
            action: "open the control socket in",
            path: home.dir().to_owned(),
            source,
        })?;
        let stop = Arc::new(Notify::new());
        let session = Session { home: home.clone(), engine, stop: Arc::clone(&stop) };
        let accept = tokio::spawn(accept(listener, session));
        Ok(Self { home: home.clone(), accept, stop })
    }

    /// Waits until a client asks the daemon to stop.
    pub async fn stop_requested(&self) {
        self.stop.notified().await;
    }

    /// Hangs up on every client and removes the socket.
    pub async fn shutdown(self) {
        self.accept.abort();
        if let Err(e) = self.accept.await
            && e.is_panic()
        {
            warn!("the control socket's task ended by a bug");
        }
        if let Ok(socket) = self.home.control_socket()
            && let Err(e) = fs::remove_file(socket.as_path())
        {
            debug!("cannot remove the control socket: {e}");
        }
    }
}

fn bind(home: &Home) -> io::Result<UnixListener> {
    let socket = home.control_socket()?;
    match fs::remove_file(socket.as_path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The home is its owner's alone, so nobody can slip in before the mode is set.
    let listener = StdUnixListener::bind(socket.as_path())?;
    fs::set_permissions(socket.as_path(), fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept(listener: UnixListener, session: Session) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut clients = JoinSet::new();
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let session = session.clone();
                clients.spawn(async move {
                    if let Err(e) = session.serve(stream).await {
                        debug!("a control client was left: {e}");
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                warn!("cannot accept a control client: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while clients.try_join_next().is_some() {}
    }
}

/// What every client's task needs.
#[derive(Clone)]
struct Session {
    home: Home,
    engine: Engine,
    stop: Arc<Notify>,
}

impl Session {
    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let uid = stream.peer_cred()?.uid();
        if uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("user {uid} is not the owner of this node")));
        }
        let (read, write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut answer = Answer { write: BufWriter::new(write) };
        let request = tokio::time::timeout(REQUEST_WAIT, read_request(&mut read)).await??;
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return answer.end(Reply::Failed(refusal)).await,
        };
        tokio::select! {
            served = self.answer(request, &mut answer) => match served {
                Ok(()) => answer.end(Reply::Done).await,
                Err(Ended::Failed(why)) => answer.end(Reply::Failed(why)).await,
                Err(Ended::HungUp(e)) => Err(e),
            },
            () = hung_up(read) => Ok(()),
        }
    }

    async fn answer(&self, request: Request, answer: &mut Answer) -> Result<(), Ended> {
        let engine = &self.engine;
        match request {
            Request::Status => answer.item(&engine.status().await).await?,
            Request::Transfers { follow } => self.transfers(follow, answer).await?,
            Request::Log { share, since, follow } => {
                self.log(&share, since, follow, answer).await?;
            }
            Request::Conflicts { share } => {
                answer.item(&engine.conflicts(share.as_ref()).await?).await?;
            }
            Request::Alerts => answer.item(&engine.lookout().report()).await?,
            Request::Check { share, peers, deep, from_disk, repair } => {
                let peers = peers.iter().map(|peer| peer.parse()).collect::<Result<_, _>>();
                let peers = peers.map_err(|e: ParseIdError| Ended::failed(e))?;
                let origin = Origin::Operator;
                let spec = CheckSpec { share, peers, deep, from_disk, repair, origin };
                self.check(&spec, answer).await?;
            }
            Request::Root { share } => answer.item(&engine.root(&share).await?).await?,
            Request::Reload => reload(&self.home, engine).await.map_err(Ended::failed)?,
            Request::Confirm { share } => answer.item(&engine.confirm(&share).await?).await?,
            Request::Revert { share } => answer.item(&engine.revert(&share).await?).await?,
            Request::Rescan { share } => engine.rescan(share.as_ref()).await?,
            Request::ClusterStatus => answer.item(&engine.cluster_status().await?).await?,
            Request::ClusterNodes => answer.item(&engine.cluster_nodes().await?).await?,
            Request::ClusterRemove { node } => engine.cluster_remove(node).await?,
            Request::ClusterReadmit { node } => engine.cluster_readmit(node).await?,
            Request::Peers => answer.item(&engine.peers().await).await?,
            Request::Peer { node } => answer.item(&engine.peer(&node).await?).await?,
            Request::NetTest { node, pings } => {
                answer.item(&engine.net_test(&node, pings).await?).await?;
            }
            Request::Stop => self.stop.notify_one(),
        }
        Ok(())
    }

    /// Tells how a check goes until its end. It goes on when nobody listens any more.
    async fn check(&self, spec: &CheckSpec, answer: &mut Answer) -> Result<(), Ended> {
        let mut told = self.engine.start_check(spec)?;
        loop {
            let report = told.borrow_and_update().clone();
            if report.state != CheckState::Running {
                return Ok(answer.item(&report).await?);
            }
            answer.item(&CheckReport { differences: Vec::new(), ..report }).await?;
            let is_over = told.wait_for(|report| report.state != CheckState::Running);
            // Either way there is something to tell.
            let _ = tokio::time::timeout(FOLLOW_PAUSE, is_over).await;
        }
    }

    async fn transfers(&self, follow: bool, answer: &mut Answer) -> Result<(), Ended> {
        let mut changes = self.engine.changes();
        let mut shown = None;
        loop {
            changes.borrow_and_update();
            let transfers = self.engine.status().await.transfers;
            if shown.as_ref() != Some(&transfers) {
                answer.item(&transfers).await?;
                shown = Some(transfers);
            }
            if !follow || changes.changed().await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }

    async fn log(
        &self,
        share: &ShareName,
        mut since: Seq,
        follow: bool,
        answer: &mut Answer,
    ) -> Result<(), Ended> {
        let mut changes = self.engine.changes();
        loop {
            changes.borrow_and_update();
            loop {
                let rows = self.engine.log(share, since, LOG_PAGE_ROWS).await?;
                let Some(last) = rows.last() else { break };
                since = last.seq;
                for row in &rows {
                    answer.push(row).await?;
                }
                answer.flush().await?;
            }
            if !follow || changes.changed().await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
    }
}

/// How serving a request may end early.
enum Ended {
    Failed(String),
    HungUp(io::Error),
}

impl Ended {
    fn failed(why: impl std::fmt::Display) -> Self {
        Ended::Failed(why.to_string())
    }
}

impl From<EngineError> for Ended {
    fn from(why: EngineError) -> Self {
        Ended::failed(why)
    }
}

impl From<io::Error> for Ended {
    fn from(why: io::Error) -> Self {
        Ended::HungUp(why)
    }
}

async fn read_request(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Result<Request, String>> {
    let mut line = Vec::new();
    let limit = REQUEST_BYTES_MAX as u64;
    read.take(limit).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Ok(Err(format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes")));
    }
    Ok(serde_json::from_slice(&line).map_err(|e| format!("this is not a request: {e}")))
}

/// Returns when the client closes its end; what it sends instead of waiting is dropped.
async fn hung_up(mut read: BufReader<OwnedReadHalf>) {
    let mut dropped = [0; 64];
    while read.read(&mut dropped).await.is_ok_and(|length| length > 0) {}
}

/// The lines that go back to a client.
struct Answer {
    write: BufWriter<OwnedWriteHalf>,
}

impl Answer {
    /// Sends one item at once.
    async fn item(&mut self, item: &impl Serialize) -> io::Result<()> {
        self.push(item).await?;
        self.flush().await
    }

    /// Sends one item with those that follow.
    async fn push(&mut self, item: &impl Serialize) -> io::Result<()> {
        self.line(&Reply::Item(serde_json::to_value(item)?)).await
    }

    async fn end(&mut self, reply: Reply) -> io::Result<()> {
        self.line(&reply).await?;
        self.flush().await
    }

    async fn line(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        tokio::time::timeout(WRITE_WAIT, self.write.write_all(&line)).await?
    }

    async fn flush(&mut self) -> io::Result<()> {
        tokio::time::timeout(WRITE_WAIT, self.write.flush()).await?
    }
}
