//! Checks over HTTP: `POST /api/v1/checks` begins one, `GET` lists them and tells of one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use highwater::check::report::{CheckReport, Origin, Repair};
use highwater::check::{CheckId, CheckSpec};
use highwater::{Engine, EngineError, NodeId, ShareName};
use serde::{Deserialize, Serialize};

use crate::api::asked;
use crate::problem::Problem;

/// The checks that are known, without their differences.
#[derive(Serialize)]
pub(crate) struct List {
    checks: Vec<CheckReport>,
}

pub(crate) async fn list(State(engine): State<Engine>) -> Json<List> {
    let checks = engine.checks().await.into_iter();
    let checks = checks.map(|report| CheckReport { differences: Vec::new(), ..report });
    Json(List { checks: checks.collect() })
}

pub(crate) async fn one(
    State(engine): State<Engine>,
    Path(id): Path<String>,
) -> Result<Json<CheckReport>, Problem> {
    let unknown = || {
        Problem::new(StatusCode::NOT_FOUND, "there is no such check; GET /api/v1/checks lists them")
    };
    let id: CheckId = id.parse().map_err(|_| unknown())?;
    engine.check(id).await.map(Json).ok_or_else(unknown)
}

/// What is to be checked, as it is posted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    share: ShareName,
    /// Node ids; none for all peers.
    #[serde(default)]
    peers: Vec<String>,
    #[serde(default)]
    deep: bool,
    #[serde(default)]
    from_disk: bool,
    #[serde(default)]
    repair: Posted,
}

/// `true`, `false` or `"dry-run"`.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Posted {
    #[default]
    No,
    Flag(bool),
    Word(Repair),
}

pub(crate) async fn begin(State(engine): State<Engine>, body: Bytes) -> Result<Response, Problem> {
    let order: Order = asked(&body)?;
    let bad = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let peers = order.peers.iter().map(|peer| peer.parse::<NodeId>());
    let peers = peers.collect::<Result<_, _>>().map_err(|why| bad(format!("peers: {why}")))?;
    let repair = match order.repair {
        Posted::No | Posted::Flag(false) => Repair::No,
        Posted::Flag(true) => Repair::Yes,
        Posted::Word(word) => word,
    };
    let Order { share, deep, from_disk, .. } = order;
    let spec = CheckSpec { share, peers, deep, from_disk, repair, origin: Origin::Operator };
    let told = engine.start_check(&spec).map_err(|why| match why {
        EngineError::UnknownShare(_) => Problem::new(StatusCode::NOT_FOUND, why.to_string()),
        why => Problem::new(StatusCode::CONFLICT, why.to_string()),
    })?;
    let report = told.borrow().clone();
    let place = HeaderValue::try_from(format!("/api/v1/checks/{}", report.id));
    let mut response = (StatusCode::ACCEPTED, Json(report)).into_response();
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}
