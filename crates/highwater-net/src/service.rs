//! The gRPC service of the accepting side. A handler does no more than to check the pin once more
//! and to pass its stream to the task that receives the connection; everything after that is the
//! same on both sides.

use std::sync::Arc;

use highwater_core::NodeId;
use highwater_core::wire::{Content, Hello, MESSAGE_BYTES_MAX};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::proto;
use crate::proto::sync_server::{Sync, SyncServer};
use crate::session::{Outlets, content_out, control_out};
use crate::socket::Wire;
use crate::tls::Pins;

/// What is known of a connection when its requests arrive: who, and who waits for its streams.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    pub(crate) peer: NodeId,
    pub(crate) wire: Arc<Wire>,
    pub(crate) opened: mpsc::Sender<Opened>,
}

/// One of the two streams of a connection has been opened.
pub(crate) enum Opened {
    Control { outlets: Outlets, incoming: Streaming<proto::ControlFrame> },
    Content { content: mpsc::Sender<Content>, incoming: Streaming<proto::ContentFrame> },
}

/// Hands the streams of admitted connections over.
pub(crate) struct SyncService {
    pins: Arc<Pins>,
    hello: Hello,
}

impl SyncService {
    /// The service, with its limits, ready to be served.
    pub(crate) fn server(pins: Arc<Pins>, hello: Hello) -> SyncServer<Self> {
        SyncServer::new(Self { pins, hello })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn admission<T>(&self, request: &Request<T>) -> Result<Admission, Status> {
        let admission = request.extensions().get::<Admission>();
        let admission = admission.ok_or_else(|| Status::unauthenticated("no identity"))?;
        // The set of peers may have changed since the handshake.
        if !self.pins.contains(&admission.peer) {
            return Err(Status::permission_denied("not a peer"));
        }
        Ok(admission.clone())
    }
}

async fn hand_over(admission: &Admission, opened: Opened) -> Result<(), Status> {
    let twice = |_| Status::failed_precondition("this stream is open already");
    admission.opened.send(opened).await.map_err(twice)
}

type Outgoing<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Sync for SyncService {
    type ControlStream = Outgoing<proto::ControlFrame>;
    type ContentStream = Outgoing<proto::ContentFrame>;

    async fn control(
        &self,
        request: Request<Streaming<proto::ControlFrame>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let admission = self.admission(&request)?;
        let (outlets, outgoing) = control_out(admission.wire.clone(), &self.hello);
        let opened = Opened::Control { outlets, incoming: request.into_inner() };
        hand_over(&admission, opened).await?;
        Ok(Response::new(Box::pin(outgoing.map(Ok))))
    }

    async fn content(
        &self,
        request: Request<Streaming<proto::ContentFrame>>,
    ) -> Result<Response<Self::ContentStream>, Status> {
        let admission = self.admission(&request)?;
        let (content, outgoing) = content_out(admission.wire.clone());
        let opened = Opened::Content { content, incoming: request.into_inner() };
        hand_over(&admission, opened).await?;
        Ok(Response::new(Box::pin(outgoing.map(Ok))))
    }
}
