//! One connection through the fault proxy: two directions, each a reader, a bounded line and a
//! writer.
//!
//! The reader stamps what it reads with the time at which it may arrive; the writer waits for that
//! time, for the rate and for a silent link, falsifies, slices, counts and delivers. An end of
//! stream travels along the line like bytes do. Whatever ends the connection as a whole, both
//! sockets are closed in the same manner: reset, or in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::faults::{Bucket, CutKind, Direction, EndAfter, Faults, Flip, Records};
use crate::proxy::{LinkState, Orders};
use crate::record::Carried;

/// Most bytes in one piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Fewest bytes that a piece is cut down to, or a slow line would be all bookkeeping.
const PIECE_BYTES_MIN: usize = 1024;
/// Pieces a second on a slow line.
const PIECES_PER_SECOND: u64 = 200;
/// Most pieces on the line of one direction: 4 MiB, so that 60 MB/s with 50 ms of delay still flow.
const PIECES_MAX: usize = 64;
/// Most bytes delivered at once while a rate holds: pieces of a few milliseconds, not one lump.
const RATED_BYTES_MAX: usize = 16 * 1024;
/// Longest wait for the target to answer. A node that starts takes less.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Why a connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Both sides had nothing more to say.
    Done,
    /// One side broke it, or the proxy did.
    Reset,
    /// The proxy closed it.
    Closed,
    /// The proxy is gone.
    Abandoned,
}

/// A connection that has been accepted.
pub(crate) struct Pipe {
    pub(crate) target: SocketAddr,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) record: Arc<Carried>,
    /// The number of severings when the connection began.
    pub(crate) begun: u64,
}

impl Pipe {
    /// Carries `client` to the target until it ends.
    pub(crate) async fn run(self, mut client: TcpStream) -> Ended {
        let mut server = match self.dial().await {
            Ok(server) => server,
            Err(ended) => return self.finish(ended, &client, None),
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ended = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let forward = self.carry(Direction::Forward, from_client, to_server);
            let backward = self.carry(Direction::Backward, from_server, to_client);
            tokio::select! {
                both = async { tokio::try_join!(forward, backward) } => match both {
                    Ok(_) => Ended::Done,
                    Err(ended) => ended,
                },
                ended = self.severed() => ended,
            }
        };
        self.finish(ended, &client, Some(&server))
    }

    fn finish(&self, ended: Ended, client: &TcpStream, server: Option<&TcpStream>) -> Ended {
        if ended == Ended::Reset {
            let _ = client.set_zero_linger();
            let _ = server.map(TcpStream::set_zero_linger);
        }
        self.record.end(match ended {
            Ended::Done => "done",
            Ended::Reset => "reset",
            Ended::Closed => "closed",
            Ended::Abandoned => "abandoned",
        });
        ended
    }

    /// Connects to the target once the link carries anything. Once begun, the connect is seen
    /// through, so that a target that has accepted learns how the connection ends.
    async fn dial(&self) -> Result<TcpStream, Ended> {
        let mut orders = self.orders.clone();
        tokio::select! {
            open = orders.wait_for(|orders| orders.state == LinkState::Open) => {
                drop(open.map_err(|_| Ended::Abandoned)?);
            }
            ended = self.severed() => return Err(ended),
        }
        match tokio::time::timeout(DIAL_PATIENCE, TcpStream::connect(self.target)).await {
            Ok(Ok(server)) => Ok(server),
            Ok(Err(_)) | Err(_) => Err(Ended::Reset),
        }
    }

    /// Waits until this connection is ordered to end.
    async fn severed(&self) -> Ended {
        let mut orders = self.orders.clone();
        match orders.wait_for(|orders| orders.severed.0 != self.begun).await {
            Ok(orders) if orders.severed.1 == CutKind::Reset => Ended::Reset,
            Ok(_) => Ended::Closed,
            Err(_) => Ended::Abandoned,
        }
    }

    /// Carries one direction to its end of stream.
    async fn carry(
        &self,
        direction: Direction,
        source: ReadHalf<'_>,
        sink: WriteHalf<'_>,
    ) -> Result<(), Ended> {
        let (line, arrivals) = mpsc::channel(PIECES_MAX);
        let writer = Writer {
            direction,
            sink,
            orders: self.orders.clone(),
            record: Arc::clone(&self.record),
            bucket: Bucket::default(),
            began: Instant::now(),
            carried: 0,
            records: Records::default(),
            limit: None,
            flip: Flip::Never,
        };
        let reader = read_into(direction, source, line, self.orders.clone());
        tokio::try_join!(reader, writer.run(arrivals)).map(|_| ())
    }
}

/// A piece under way; an empty one is the end of the stream.
struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

async fn read_into(
    direction: Direction,
    mut source: ReadHalf<'_>,
    line: mpsc::Sender<Piece>,
    mut orders: watch::Receiver<Orders>,
) -> Result<(), Ended> {
    let mut buffer = vec![0; PIECE_BYTES_MAX];
    loop {
        wait_open(&mut orders, direction).await?;
        let faults = orders.borrow().faults[direction.index()];
        let piece = &mut buffer[..piece_max(&faults)];
        let count = source.read(piece).await.map_err(|_| Ended::Reset)?;
        let due = Instant::now() + Duration::from_millis(faults.delay_ms);
        let piece = Piece { due, bytes: buffer[..count].to_vec() };
        if line.send(piece).await.is_err() || count == 0 {
            return Ok(());
        }
    }
}

async fn wait_open(
    orders: &mut watch::Receiver<Orders>,
    direction: Direction,
) -> Result<(), Ended> {
    let open = orders.wait_for(|orders| !orders.silent(direction)).await;
    open.map(|_| ()).map_err(|_| Ended::Abandoned)
}

/// The delivering end of one direction.
struct Writer<'a> {
    direction: Direction,
    sink: WriteHalf<'a>,
    orders: watch::Receiver<Orders>,
    record: Arc<Carried>,
    bucket: Bucket,
    began: Instant,
    carried: u64,
    records: Records,
    /// The order to end, and the count of carried bytes at which it falls due.
    limit: Option<(EndAfter, u64)>,
    /// The last order to falsify, so that `Once` is carried out once.
    flip: Flip,
}

impl Writer<'_> {
    async fn run(mut self, mut arrivals: mpsc::Receiver<Piece>) -> Result<(), Ended> {
        while let Some(piece) = arrivals.recv().await {
            tokio::time::sleep_until(piece.due).await;
            if piece.bytes.is_empty() {
                wait_open(&mut self.orders, self.direction).await?;
                return self.sink.shutdown().await.map_err(|_| Ended::Reset);
            }
            self.deliver(piece.bytes).await?;
        }
        Ok(())
    }

    async fn deliver(&mut self, mut bytes: Vec<u8>) -> Result<(), Ended> {
        let mut rest = bytes.as_mut_slice();
        while !rest.is_empty() {
            wait_open(&mut self.orders, self.direction).await?;
            let faults = self.orders.borrow().faults[self.direction.index()];
            let allowed = self.allowance(&faults).await?;
            let length = rest.len().min(slice_max(&faults)).min(allowed);
            let (slice, after) = rest.split_at_mut(length);
            self.records.pass(slice);
            self.falsify(faults.flip, slice);
            self.pass_at_rate(&faults, length).await?;
            self.sink.write_all(slice).await.map_err(|_: io::Error| Ended::Reset)?;
            self.record.add(self.direction, length);
            self.carried += length as u64;
            rest = after;
        }
        Ok(())
    }

    /// How many bytes may pass before the ordered end; carries the end out where there are none.
    async fn allowance(&mut self, faults: &Faults) -> Result<usize, Ended> {
        if faults.end_after != self.limit.map(|(order, _)| order) {
            self.limit = faults.end_after.map(|order| (order, self.carried + order.bytes));
        }
        let Some((order, limit)) = self.limit else { return Ok(usize::MAX) };
        if self.carried < limit {
            return Ok(usize::try_from(limit - self.carried).unwrap_or(usize::MAX));
        }
        let to_end = if order.at_record { self.records.to_end() } else { 0 };
        if to_end > 0 {
            return Ok(usize::try_from(to_end).unwrap_or(usize::MAX));
        }
        match order.kind {
            CutKind::Silent => std::future::pending().await,
            CutKind::Reset => Err(Ended::Reset),
            CutKind::Close => Err(Ended::Closed),
        }
    }

    /// Waits until the rate lets `length` bytes pass, and the link with it.
    async fn pass_at_rate(&mut self, faults: &Faults, length: usize) -> Result<(), Ended> {
        let Some(rate) = faults.bytes_per_second else { return Ok(()) };
        let passed = self.bucket.book(self.began.elapsed(), length as u64, rate);
        tokio::time::sleep_until(self.began + passed).await;
        wait_open(&mut self.orders, self.direction).await
    }

    fn falsify(&mut self, flip: Flip, slice: &mut [u8]) {
        let was = std::mem::replace(&mut self.flip, flip);
        match flip {
            Flip::Never => {}
            Flip::Once if was == Flip::Once => {}
            Flip::Once => slice[0] ^= 1,
            Flip::Every(period) => {
                let period = period.max(1);
                for (index, byte) in slice.iter_mut().enumerate() {
                    if (self.carried + index as u64 + 1).is_multiple_of(period) {
                        *byte ^= 1;
                    }
                }
            }
        }
    }
}

/// The longest piece: on a slow line a few milliseconds' worth, so that a full line holds some tenths
/// of a second and not minutes.
fn piece_max(faults: &Faults) -> usize {
    let Some(rate) = faults.bytes_per_second else { return PIECE_BYTES_MAX };
    let piece = usize::try_from(rate / PIECES_PER_SECOND).unwrap_or(PIECE_BYTES_MAX);
    piece.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
}

fn slice_max(faults: &Faults) -> usize {
    match (faults.one_byte_slices, faults.bytes_per_second) {
        (true, _) => 1,
        (false, Some(_)) => RATED_BYTES_MAX,
        (false, None) => PIECE_BYTES_MAX,
    }
}
