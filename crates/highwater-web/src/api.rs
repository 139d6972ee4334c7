//! What the plain routes answer. The list of them is in `routes.rs`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use highwater::Engine;
use highwater::engine::EngineError;
use highwater::report::cluster::{ClusterNodes, ClusterStatus};
use highwater::report::net::Peers;
use highwater::report::{AlertsReport, Health, ShareStatus, Status, Transfer};
use highwater_core::ShareName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

pub(crate) async fn health(State(engine): State<Engine>) -> (StatusCode, Json<Health>) {
    let health = engine.health().await;
    (code(health.status), Json(health))
}

/// One short answer for a supervisor.
#[derive(Serialize)]
pub(crate) struct Verdict {
    status: bool,
}

pub(crate) async fn live() -> Json<Verdict> {
    Json(Verdict { status: true })
}

pub(crate) async fn ready(State(engine): State<Engine>) -> (StatusCode, Json<Verdict>) {
    let checks = engine.health().await.checks;
    // A share that is stopped by a problem is a matter for its owner: the node serves the others.
    let status = checks.store.status && checks.disk.status;
    (code(status), Json(Verdict { status }))
}

pub(crate) async fn status(State(engine): State<Engine>) -> Json<Status> {
    Json(engine.status().await)
}

#[derive(Serialize)]
pub(crate) struct Shares {
    shares: Vec<ShareStatus>,
}

pub(crate) async fn shares(State(engine): State<Engine>) -> Json<Shares> {
    Json(Shares { shares: engine.status().await.shares })
}

pub(crate) async fn share(
    State(engine): State<Engine>,
    Path(name): Path<String>,
) -> Result<Json<ShareStatus>, Problem> {
    let name = share_name(&name)?;
    let share = engine.status().await.shares.into_iter().find(|share| share.name == name);
    share.map(Json).ok_or_else(no_share)
}

#[derive(Serialize)]
pub(crate) struct Done {
    done: bool,
}

pub(crate) async fn rescan(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Done>, Problem> {
    let Nothing {} = asked(&body)?;
    engine.rescan(Some(&share_name(&name)?)).await.map_err(refused)?;
    Ok(Json(Done { done: true }))
}

/// What is said where there is nothing to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a body asks for, strictly read: an object with nothing unknown, nothing twice, nothing
/// behind it. JSON that is nested without end is refused by its reader.
pub(crate) fn asked<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // The reader would take a list for an object as well, field by field.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail = format!("the body is not what is asked for, at line {line} column {column}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

#[derive(Serialize)]
pub(crate) struct Transfers {
    transfers: Vec<Transfer>,
}

pub(crate) async fn transfers(State(engine): State<Engine>) -> Json<Transfers> {
    Json(Transfers { transfers: engine.status().await.transfers })
}

pub(crate) async fn alerts(State(engine): State<Engine>) -> Json<AlertsReport> {
    Json(engine.lookout().report())
}

pub(crate) async fn peers(State(engine): State<Engine>) -> Json<Peers> {
    Json(engine.peers().await)
}

pub(crate) async fn cluster_status(
    State(engine): State<Engine>,
) -> Result<Json<ClusterStatus>, Problem> {
    engine.cluster_status().await.map(Json).map_err(|error| unavailable(&error))
}

pub(crate) async fn cluster_nodes(
    State(engine): State<Engine>,
) -> Result<Json<ClusterNodes>, Problem> {
    engine.cluster_nodes().await.map(Json).map_err(|error| unavailable(&error))
}

fn unavailable(error: &EngineError) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

pub(crate) async fn later() -> Problem {
    Problem::new(StatusCode::NOT_IMPLEMENTED, "not available in this version")
}

pub(crate) async fn unknown() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here; see /api/v1/openapi.json")
}

pub(crate) async fn wrong_method(method: Method) -> Problem {
    let detail = match method {
        Method::GET | Method::HEAD => "this is asked with POST",
        _ => "this only tells; ask with GET",
    };
    let allow = if method == Method::POST { "GET, HEAD" } else { "POST" };
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).allowing(allow)
}

/// The name of a share in a path. One that cannot be a name is answered like one that is none.
pub(crate) fn share_name(name: &str) -> Result<ShareName, Problem> {
    name.parse().map_err(|_| no_share())
}

fn no_share() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no share of this name; see /api/v1/shares")
}

/// Why the engine did not do what it was asked, without anything of the inside.
pub(crate) fn refused(error: EngineError) -> Problem {
    match error {
        EngineError::UnknownShare(_) => no_share(),
        EngineError::Refused(why) => Problem::new(StatusCode::CONFLICT, why),
        EngineError::Stopped(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the share is being stopped; ask again")
        }
        EngineError::Store(_) | EngineError::Thread(_) => {
            tracing::error!("an HTTP request failed: {error}");
            let detail = "the node could not do this; its log says why";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
        }
    }
}

fn code(well: bool) -> StatusCode {
    if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
