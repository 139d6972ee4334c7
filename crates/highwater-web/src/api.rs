//! The routes.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use highwater::report::cluster::{ClusterNodes, ClusterStatus};
use highwater::report::net::Peers;
use highwater::report::{Health, Status};
use highwater::{Engine, EngineError};
use serde::Serialize;

use crate::events::events;
use crate::problem::Problem;

/// Paths that the contract names and this version does not have.
const LATER: [&str; 7] = [
    "/",
    "/metrics",
    "/api/v1/alerts",
    "/api/v1/shares",
    "/api/v1/shares/{share}",
    "/api/v1/shares/{share}/changes",
    "/api/v1/transfers",
];

/// The whole API of `engine`.
pub(crate) fn routes(engine: Engine) -> Router {
    let routes = Router::new()
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/api/v1/status", get(status))
        .route("/api/v1/events", get(events))
        .route("/api/v1/peers", get(peers))
        .route("/api/v1/cluster/status", get(cluster_status))
        .route("/api/v1/cluster/nodes", get(cluster_nodes))
        .merge(crate::checks::routes())
        .with_state(engine);
    LATER.into_iter().fold(routes, |routes, path| routes.route(path, get(later))).fallback(unknown)
}

async fn health(State(engine): State<Engine>) -> (StatusCode, Json<Health>) {
    let health = engine.health().await;
    (code(health.status), Json(health))
}

/// One short answer for a supervisor.
#[derive(Serialize)]
struct Verdict {
    status: bool,
}

async fn live() -> Json<Verdict> {
    Json(Verdict { status: true })
}

async fn ready(State(engine): State<Engine>) -> (StatusCode, Json<Verdict>) {
    let checks = engine.health().await.checks;
    // A share that is stopped by a problem is a matter for its owner: the node serves the others.
    let status = checks.store.status && checks.disk.status;
    (code(status), Json(Verdict { status }))
}

async fn status(State(engine): State<Engine>) -> Json<Status> {
    Json(engine.status().await)
}

async fn peers(State(engine): State<Engine>) -> Json<Peers> {
    Json(engine.peers().await)
}

async fn cluster_status(State(engine): State<Engine>) -> Result<Json<ClusterStatus>, Problem> {
    engine.cluster_status().await.map(Json).map_err(|error| unavailable(&error))
}

async fn cluster_nodes(State(engine): State<Engine>) -> Result<Json<ClusterNodes>, Problem> {
    engine.cluster_nodes().await.map(Json).map_err(|error| unavailable(&error))
}

fn unavailable(error: &EngineError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

async fn later() -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "not available in this version")
}

async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here; see /health and /api/v1/status")
}

fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
