//! `/metrics`: every figure of the node in the text format of Prometheus, put together when it is
//! asked for.
//!
//! Labels come from closed sets (states, kinds, rules) and from what the owner configured (shares,
//! peers); never from names of files, so that their number is bounded. Where there are more than
//! [`SERIES_MAX`] series the rest is left out, and `highwater_metrics_truncated` says so.

mod node;
mod process;
mod text;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use highwater::Engine;

use crate::figures::Figures;
use text::{Kind, Page};

/// Series of one page: a hundred shares with ten peers each, in every figure.
const SERIES_MAX: usize = 20_000;
/// What Prometheus has called this format for ten years.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn page(
    State(engine): State<Engine>,
    State(figures): State<Arc<Figures>>,
) -> impl IntoResponse {
    let mut page = Page::new(SERIES_MAX);
    let (status, health) = (engine.status().await, engine.health().await);
    node::about(&mut page, &status, &health);
    node::shares(&mut page, &status);
    node::lines(&mut page, &engine.peers().await.peers);
    node::checks(&mut page, &status);
    node::lags(&mut page, &engine.lookout().lags());
    node::counters(&mut page, &status.counters);
    node::alerts(&mut page, &engine.lookout().report());
    http(&mut page, &figures);
    let store = engine.home().dir().join("store");
    let found = tokio::task::spawn_blocking(move || process::look(&store)).await;
    process::show(&mut page, &found.unwrap_or_default());
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], page.finish())
}

fn http(page: &mut Page, figures: &Figures) {
    let name = "highwater_http_responses_total";
    page.family(name, Kind::Counter, "Answers of the HTTP API by class of status.");
    for (class, count) in figures.answers() {
        page.sample(name, &[("class", &class)], count as f64);
    }
    let name = "highwater_http_rejected_total";
    page.family(name, Kind::Counter, "Requests that the HTTP API turned away, by reason.");
    for (reason, count) in figures.rejections() {
        page.sample(name, &[("reason", reason.as_str())], count as f64);
    }
    let evicted = figures.evicted.load(std::sync::atomic::Ordering::Relaxed);
    page.single(
        "highwater_http_evicted_total",
        Kind::Counter,
        "Idle HTTP connections that were closed to make room.",
        evicted as f64,
    );
}
