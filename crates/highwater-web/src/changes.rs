//! The change log of a share: a page of it, or all that is to come as server-sent events.
//!
//! The position of a change is its cursor: what is behind it comes next. Positions of another share,
//! or of a log that was begun anew, name other changes, as `status` shows by its epoch.

use std::convert::Infallible;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use highwater::Engine;
use highwater::report::LogRow;
use highwater_core::{Seq, ShareName};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{refused, share_name};
use crate::problem::Problem;

/// Changes of one page unless told otherwise.
const LIMIT_DEFAULT: usize = 512;
/// Most changes of one page: about a megabyte.
const LIMIT_MAX: usize = 4096;
/// Events that wait for a slow reader. Then the log waits, which keeps what is to come.
const EVENTS_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default)]
    since: u64,
    limit: Option<usize>,
    #[serde(default)]
    follow: bool,
}

#[derive(Serialize)]
struct Changes {
    share: ShareName,
    changes: Vec<LogRow>,
    /// Ask for what is behind this next.
    next: Seq,
}

pub(crate) async fn changes(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, Problem> {
    let share = share_name(&name)?;
    let wrong = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, detail);
    let Query(asked) = asked.map_err(|_| {
        wrong("the query takes since=NUMBER, limit=NUMBER and follow=true or false, each once")
    })?;
    let limit = asked.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(wrong("limit is 1 to 4096"));
    }
    let since = Seq(asked.since);
    let first = engine.log(&share, since, limit).await.map_err(refused)?;
    if asked.follow {
        let (events, follower) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(follow(engine, share, since, first, limit, events));
        let stream = Sse::new(ReceiverStream::new(follower));
        return Ok(stream.keep_alive(KeepAlive::default()).into_response());
    }
    let next = first.last().map_or(since, |row| row.seq);
    Ok(Json(Changes { share, changes: first, next }).into_response())
}

/// Sends changes as they are made, until the reader or the share is gone.
async fn follow(
    engine: Engine,
    share: ShareName,
    mut since: Seq,
    mut rows: Vec<LogRow>,
    limit: usize,
    events: mpsc::Sender<Result<Event, Infallible>>,
) {
    let mut changes = engine.changes();
    loop {
        while let Some(last) = rows.last() {
            since = last.seq;
            for row in &rows {
                let Ok(event) = Event::default().id(row.seq.0.to_string()).json_data(row) else {
                    return;
                };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            changes.borrow_and_update();
            match engine.log(&share, since, limit).await {
                Ok(more) => rows = more,
                Err(_) => return,
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = events.closed() => return,
        }
        match engine.log(&share, since, limit).await {
            Ok(more) => rows = more,
            Err(_) => return,
        }
    }
}
