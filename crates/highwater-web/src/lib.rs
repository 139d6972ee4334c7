//! Shows: the HTTP API of a node, and tells others when an alert turns.
//!
//! Every route is in one table (`routes.rs`), from which the router, the guard and the OpenAPI
//! document are made. Being on this machine opens everything; from elsewhere a token does, and the
//! health checks are open. Since a browser on this machine runs other people's pages, a request
//! without a token must also name this machine as its host, and none may come from a page of
//! another origin (`guard.rs`). Errors are `application/problem+json`, RFC 9457.
//!
//! Connections are bounded in number, in the time a request may take to arrive, and in how long
//! they may live, so that slow clients cannot hold up others (`server.rs`).
//!
//! What goes out of its own accord, alerts to a webhook and to an Alertmanager, is in `notify.rs`.
#![forbid(unsafe_code)]

mod api;
mod changes;
mod checks;
mod events;
mod figures;
mod guard;
mod metrics;
mod notify;
mod openapi;
mod outgoing;
mod problem;
mod routes;
mod seat;
mod server;
mod throttle;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::FromRef;
use highwater::Engine;
use highwater::tokens::Tokens;

use figures::Figures;
use guard::Gate;
use notify::Notifier;
pub use server::{WebError, WebServer};

/// What handlers are given.
#[derive(Clone, Debug)]
pub(crate) struct App {
    engine: Engine,
    figures: Arc<Figures>,
}

impl FromRef<App> for Engine {
    fn from_ref(app: &App) -> Engine {
        app.engine.clone()
    }
}

impl FromRef<App> for Arc<Figures> {
    fn from_ref(app: &App) -> Arc<Figures> {
        Arc::clone(&app.figures)
    }
}

/// Serves the HTTP API of `engine` on `addr` and sends its alerts, and says on which address it
/// really is.
///
/// # Errors
/// When the address cannot be had.
pub async fn serve(engine: Engine, addr: SocketAddr) -> Result<(WebServer, SocketAddr), WebError> {
    let figures = Arc::new(Figures::default());
    let gate = Gate::new(Tokens::of(engine.home()), Arc::clone(&figures));
    let routes = routes::router(App { engine: engine.clone(), figures });
    let (server, bound) = WebServer::start(routes, Arc::new(gate), addr).await?;
    engine.note_http_addr(bound).await;
    Ok((server.with(Notifier::start(engine, bound)), bound))
}
