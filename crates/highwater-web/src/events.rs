//! `GET /api/v1/events`: what happens, as server-sent events.
//!
//! The name of an event is that of what happened (`member`, `link`, `share`, `health`), its data one
//! line of JSON. Who reads too slowly is told with an event `missed` how many were left out.

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use highwater::Engine;
use highwater::report::event::{Happening, Occurrence};
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};

/// Follows what happens from now on.
pub(crate) async fn events(
    State(engine): State<Engine>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = BroadcastStream::new(engine.events()).map(|event| Ok(written(event)));
    Sse::new(events).keep_alive(KeepAlive::default())
}

fn written(event: Result<Occurrence, BroadcastStreamRecvError>) -> Event {
    match event {
        Ok(occurrence) => {
            let name = match &occurrence.what {
                Happening::Member { .. } => "member",
                Happening::Link { .. } => "link",
                Happening::Share { .. } => "share",
                Happening::Health { .. } => "health",
            };
            let data = serde_json::to_string(&occurrence).unwrap_or_default();
            Event::default().event(name).data(data)
        }
        Err(BroadcastStreamRecvError::Lagged(missed)) => {
            Event::default().event("missed").data(missed.to_string())
        }
    }
}
