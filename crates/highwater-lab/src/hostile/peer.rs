//! One gRPC connection of the hostile side, with as much or as little manners as a case wants.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::version::TLS13;
use tokio::task::JoinHandle;

use super::frames::{self, Hello, Offer};
use super::proto::{self, Message};
use super::tls::{Credentials, secure};
use super::{PATIENCE, runtime, step};

/// Window of a stream and of the connection: a hostile side that reads is never the one that
/// holds things up.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// An HTTP/2 connection after the TLS handshake.
#[derive(Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Connection {
    /// Connects and shakes hands; nothing is asked yet.
    pub fn open(addr: SocketAddr, credentials: Option<&Credentials>) -> Result<Self> {
        Self::open_with_window(addr, credentials, WINDOW_BYTES)
    }

    /// As [`Connection::open`], taking no more than this many bytes a stream until they are read.
    pub fn open_with_window(
        addr: SocketAddr,
        credentials: Option<&Credentials>,
        window_bytes: u32,
    ) -> Result<Self> {
        step("opening a connection", async {
            let stream = secure(addr, credentials, &[b"h2"], &[&TLS13]).await?;
            let (requests, connection) = h2::client::Builder::new()
                .initial_window_size(window_bytes)
                .initial_connection_window_size(WINDOW_BYTES)
                .handshake::<_, Bytes>(stream)
                .await?;
            // How a connection ends is told by its streams.
            let driver = runtime()?.spawn(async move { drop(connection.await) });
            Ok(Self { requests: requests.ready().await?, driver })
        })
    }

    /// Begins a call of this method of the service.
    pub fn call(&mut self, method: &str) -> Result<Call> {
        self.call_path(&format!("/highwater.v1.Sync/{method}"))
    }

    /// Begins a call of whatever this path names.
    pub fn call_path(&mut self, path: &str) -> Result<Call> {
        let request = Request::post(format!("http://victim{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.send(request.body(())?)
    }

    /// Begins whatever this request begins.
    pub fn send(&mut self, request: Request<()>) -> Result<Call> {
        step("beginning a call", async {
            poll_fn(|cx| self.requests.poll_ready(cx)).await?;
            let (response, outgoing) = self.requests.send_request(request, false)?;
            let incoming = Incoming::Awaited(Box::new(response));
            Ok(Call { outgoing, incoming, buffer: Vec::new() })
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One call: a stream in each direction.
#[derive(Debug)]
pub struct Call {
    outgoing: SendStream<Bytes>,
    incoming: Incoming,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Incoming {
    Awaited(Box<ResponseFuture>),
    Body(RecvStream),
    Ended(u32, String),
}

/// What is heard on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Vec<u8>),
    /// The call has ended with this gRPC status.
    Status(u32, String),
    /// The stream or the connection broke.
    Broken(String),
}

impl Call {
    /// Sends a message as gRPC frames it: no compression, its true length.
    pub fn say(&mut self, message: &Message) -> Result<()> {
        self.say_raw(&framed(0, message.encoded().len() as u64, message.encoded()))
    }

    /// Sends bytes without any framing, waiting for room.
    pub fn say_raw(&mut self, bytes: &[u8]) -> Result<()> {
        step("sending", self.send(Bytes::copy_from_slice(bytes)))
    }

    async fn send(&mut self, mut rest: Bytes) -> Result<()> {
        while !rest.is_empty() {
            self.outgoing.reserve_capacity(rest.len());
            let room = poll_fn(|cx| self.outgoing.poll_capacity(cx)).await;
            let room = room.context("the stream is closed")??;
            let now = rest.split_to(room.min(rest.len()));
            self.outgoing.send_data(now, false)?;
        }
        Ok(())
    }

    /// Ends this side's stream.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.outgoing.send_data(Bytes::new(), true)?)
    }

    /// The next thing from the other side.
    pub fn hear(&mut self) -> Result<Heard> {
        step("listening", async { Ok(self.next().await) })
    }

    async fn next(&mut self) -> Heard {
        loop {
            if let Some(message) = take_message(&mut self.buffer) {
                return Heard::Message(message);
            }
            if let Err(error) = self.read_more().await {
                return Heard::Broken(format!("{error:#}"));
            }
            if let Incoming::Ended(code, text) = &self.incoming
                && self.buffer.len() < 5
            {
                return Heard::Status(*code, text.clone());
            }
        }
    }

    async fn read_more(&mut self) -> Result<()> {
        match &mut self.incoming {
            Incoming::Awaited(response) => {
                let response = response.await?;
                let status = response.status();
                ensure!(status == 200, "answered with HTTP {status}");
                let (head, body) = response.into_parts();
                // An answer without messages has its status in its headers.
                self.incoming = match grpc_status(&head.headers) {
                    Some((code, text)) => Incoming::Ended(code, text),
                    None => Incoming::Body(body),
                };
            }
            Incoming::Body(body) => match body.data().await {
                Some(data) => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await?.unwrap_or_default();
                    let (code, text) = grpc_status(&trailers).context("no gRPC status")?;
                    self.incoming = Incoming::Ended(code, text);
                }
            },
            Incoming::Ended(..) => bail!("a message ends early"),
        }
        Ok(())
    }
}

/// A gRPC frame with any flags and any length in its prefix.
pub fn framed(flags: u8, length: u64, message: &[u8]) -> Vec<u8> {
    let length = (length as u32).to_be_bytes();
    [&[flags][..], &length, message].concat()
}

fn take_message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = buffer.get(1..5)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let message = buffer.get(5..5 + length)?.to_vec();
    buffer.drain(..5 + length);
    Some(message)
}

fn grpc_status(headers: &HeaderMap) -> Option<(u32, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().ok()?;
    Some((code, text("grpc-message").unwrap_or_default().to_owned()))
}

/// How the victim ended a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a goodbye of this reason.
    Goodbye(u64),
    /// With this gRPC status and no goodbye.
    Status(u32),
    /// Without a word.
    Broken,
}

/// The victim's offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The epoch of the victim's log.
    pub epoch: [u8; 16],
    /// Its head.
    pub head: u64,
}

/// Both streams of one connection, as a peer of the victim.
#[derive(Debug)]
pub struct Peer {
    /// The control stream.
    pub control: Call,
    /// The content stream.
    pub content: Call,
    /// What carries them.
    pub connection: Connection,
    unread: VecDeque<Vec<u8>>,
}

impl Peer {
    /// Opens both streams and says nothing.
    pub fn connect(addr: SocketAddr, credentials: &Credentials) -> Result<Self> {
        Self::on(Connection::open(addr, Some(credentials))?)
    }

    /// Opens both streams on this connection.
    pub fn on(mut connection: Connection) -> Result<Self> {
        let control = connection.call("Control")?;
        let content = connection.call("Content")?;
        Ok(Self { control, content, connection, unread: VecDeque::new() })
    }

    /// Connects and greets as an honest peer would, until the link is up.
    pub fn linked(addr: SocketAddr, credentials: &Credentials) -> Result<Self> {
        let mut peer = Self::connect(addr, credentials)?;
        peer.greet(&Hello::default())?;
        Ok(peer)
    }

    /// Links and offers a log of this share; what the victim offers.
    pub fn sharing(
        addr: SocketAddr,
        credentials: &Credentials,
        share: &str,
        epoch: [u8; 16],
        head: u64,
    ) -> Result<(Self, Offered)> {
        let mut peer = Self::linked(addr, credentials)?;
        peer.control.say(&Offer::of(share, epoch, head).frame())?;
        let offered = peer.offered()?;
        Ok((peer, offered))
    }

    /// Greets, and chooses this link.
    pub fn greet(&mut self, hello: &Hello) -> Result<()> {
        self.control.say(&hello.frame())?;
        self.wait_for(1)?;
        self.control.say(&frames::ping(1))?;
        self.wait_for(8).map(drop)
    }

    /// The victim's offer, whether it has come already or not.
    pub fn offered(&mut self) -> Result<Offered> {
        let offer = self.wait_for(2)?;
        let fields = proto::read(&offer)?;
        let epoch = proto::bytes(&fields, 2).try_into().context("an epoch has 16 bytes")?;
        Ok(Offered { epoch, head: proto::number(&fields, 3) })
    }

    /// Whether the link is still up: a ping is answered with its number.
    pub fn is_up(&mut self, number: u64) -> Result<()> {
        self.control.say(&frames::ping(number))?;
        loop {
            let pong = self.wait_for(8)?;
            if proto::number(&proto::read(&pong)?, 1) == number {
                return Ok(());
            }
        }
    }

    /// The next control message with this body, whatever comes before it. Messages of other kinds
    /// are kept for those who wait for them later.
    pub fn wait_for(&mut self, body: u64) -> Result<Vec<u8>> {
        let found = |message: &[u8]| -> Result<Option<Vec<u8>>> {
            let fields = proto::read(message)?;
            let holds = fields.iter().any(|(number, _)| *number == body);
            Ok(holds.then(|| proto::bytes(&fields, body).to_vec()))
        };
        for at in 0..self.unread.len() {
            if let Some(held) = found(&self.unread[at])? {
                self.unread.remove(at);
                return Ok(held);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.control.hear()? {
                Heard::Message(message) => match found(&message)? {
                    Some(held) => return Ok(held),
                    None => step("answering", self.keep(message))?,
                },
                other => bail!("waiting for the control message {body}: {other:?}"),
            }
        }
        bail!("the control message {body} has not come within {PATIENCE:?}")
    }

    /// Keeps a message for later, and answers it if it is a probe: whoever is silent for 12 s is
    /// taken for dead.
    async fn keep(&mut self, message: Vec<u8>) -> Result<()> {
        let fields = proto::read(&message)?;
        if fields.iter().any(|(number, _)| *number == 7) {
            let ping = proto::read(proto::bytes(&fields, 7))?;
            let pong = frames::pong(proto::number(&ping, 1));
            let pong = framed(0, pong.encoded().len() as u64, pong.encoded());
            // A link that is just being closed takes no answer.
            let _ = self.control.send(pong.into()).await;
            return Ok(());
        }
        self.unread.push_back(message);
        Ok(())
    }

    /// The next message on the content stream. Probes are answered meanwhile.
    pub fn content_message(&mut self) -> Result<Vec<u8>> {
        step("waiting for content", async {
            loop {
                let heard = tokio::select! {
                    heard = self.content.next() => match heard {
                        Heard::Message(message) => return Ok(message),
                        other => bail!("waiting for content: {other:?}"),
                    },
                    heard = self.control.next() => heard,
                };
                match heard {
                    Heard::Message(message) => self.keep(message).await?,
                    other => bail!("waiting for content: {other:?}"),
                }
            }
        })
    }

    /// Listens until the victim has ended the link, and how it did.
    pub fn ending(&mut self) -> Result<Ending> {
        let mut unread = std::mem::take(&mut self.unread);
        loop {
            let heard = match unread.pop_front() {
                Some(message) => Heard::Message(message),
                None => self.control.hear()?,
            };
            match heard {
                Heard::Message(message) => {
                    let fields = proto::read(&message)?;
                    if fields.iter().any(|(number, _)| *number == 9) {
                        return Ok(Ending::Goodbye(proto::number(&fields, 9)));
                    }
                }
                Heard::Status(code, _) => return Ok(Ending::Status(code)),
                Heard::Broken(_) => return Ok(Ending::Broken),
            }
        }
    }
}
