//! Every route there is, in one table: the router is built from it, the guard looks up in it who may
//! ask, and the OpenAPI document is written from it. A route that is not here does not exist, and
//! one that is here is documented and guarded.
//!
//! To add one: write its handler in `api.rs` or a file of its own, give it a line here, and if it
//! answers something new, describe that in `openapi/schemas.json`.

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use highwater::tokens::Scope;

use crate::App;
use crate::{api, changes, checks, events, metrics, openapi};

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Anyone who reaches the address.
    Open,
    /// Who is on this machine, and who has a token with this scope or a wider one.
    Token(Scope),
}

/// How a route is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    /// It tells; `HEAD` is answered as well.
    Get,
    /// It changes something.
    Post,
}

/// A parameter of the query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// `integer` or `boolean`, as JSON schema has it.
    pub(crate) kind: &'static str,
}

/// One route.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// What it answers, in a sentence; empty for what this version does not have yet.
    pub(crate) about: &'static str,
    pub(crate) parameters: &'static [Parameter],
    /// The schema of its answer; empty where it is not JSON.
    pub(crate) answer: &'static str,
    /// The status of its answer when all is well.
    pub(crate) status: u16,
    /// What may be posted.
    pub(crate) example: &'static str,
    handler: fn() -> MethodRouter<App>,
}

/// In the place of a schema: a stream of server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";

const READ: Access = Access::Token(Scope::Read);
const ADMIN: Access = Access::Token(Scope::Admin);

const CHANGES: [Parameter; 3] = [
    Parameter { name: "since", about: "only changes behind this position", kind: "integer" },
    Parameter { name: "limit", about: "at most so many, 1 to 4096", kind: "integer" },
    Parameter { name: "follow", about: "go on, as server-sent events", kind: "boolean" },
];

/// Every route.
pub(crate) const ROUTES: [Route; 20] = [
    told("/health", Access::Open, "Every check; 503 when one fails", "Health", || get(api::health)),
    told("/health/live", Access::Open, "The process answers", "Verdict", || get(api::live)),
    told("/health/ready", Access::Open, "The store takes writes and has room", "Verdict", || {
        get(api::ready)
    }),
    told("/metrics", READ, "Every figure, for Prometheus", "", || get(metrics::page)),
    told("/api/v1/openapi.json", READ, "This document", "OpenApi", || get(openapi::page)),
    told("/api/v1/status", READ, "Everything about the node", "Status", || get(api::status)),
    told("/api/v1/shares", READ, "The shares of the node", "Shares", || get(api::shares)),
    told("/api/v1/shares/{share}", READ, "One share", "ShareStatus", || get(api::share)),
    Route {
        parameters: &CHANGES,
        ..told(
            "/api/v1/shares/{share}/changes",
            READ,
            "The change log of a share",
            "Changes",
            || get(changes::changes),
        )
    },
    Route {
        verb: Verb::Post,
        ..told("/api/v1/shares/{share}/rescan", ADMIN, "Reads the folder now", "Done", || {
            post(api::rescan)
        })
    },
    told("/api/v1/transfers", READ, "The contents in flight", "Transfers", || get(api::transfers)),
    told("/api/v1/alerts", READ, "What fires, and what was resolved lately", "Alerts", || {
        get(api::alerts)
    }),
    told("/api/v1/checks", READ, "The checks that are known", "Checks", || get(checks::list)),
    Route {
        verb: Verb::Post,
        status: 202,
        example: "{\"share\":\"docs\",\"deep\":false}",
        ..told("/api/v1/checks", ADMIN, "Begins a check", "Check", || post(checks::begin))
    },
    told("/api/v1/checks/{id}", READ, "One check, with its differences", "Check", || {
        get(checks::one)
    }),
    told("/api/v1/peers", READ, "The lines to the peers", "Peers", || get(api::peers)),
    told("/api/v1/cluster/status", READ, "The cluster in figures", "ClusterStatus", || {
        get(api::cluster_status)
    }),
    told("/api/v1/cluster/nodes", READ, "The nodes of the cluster", "ClusterNodes", || {
        get(api::cluster_nodes)
    }),
    told("/api/v1/events", READ, "What happens, as server-sent events", EVENTS, || {
        get(events::events)
    }),
    later(Verb::Get, "/", READ),
];

/// A route that tells something.
const fn told(
    path: &'static str,
    access: Access,
    about: &'static str,
    answer: &'static str,
    handler: fn() -> MethodRouter<App>,
) -> Route {
    Route {
        verb: Verb::Get,
        path,
        access,
        about,
        parameters: &[],
        answer,
        status: 200,
        example: "{}",
        handler,
    }
}

/// A route that the contract names and this version does not have.
const fn later(verb: Verb, path: &'static str, access: Access) -> Route {
    let handler: fn() -> MethodRouter<App> = match verb {
        Verb::Get => || get(api::later),
        Verb::Post => || post(api::later),
    };
    Route { verb, ..told(path, access, "", "", handler) }
}

/// The whole API of `app`, without its guard.
pub(crate) fn router(app: App) -> Router {
    let empty = Router::new().method_not_allowed_fallback(api::wrong_method);
    let all = ROUTES.iter().fold(empty, |all, route| all.route(route.path, (route.handler)()));
    all.fallback(api::unknown).method_not_allowed_fallback(api::wrong_method).with_state(app)
}

/// Who may ask for what is matched by `path`. What is unknown is open to nobody without a token, so
/// that a stranger does not learn what there is.
pub(crate) fn access(path: Option<&str>, verb: Verb) -> Access {
    let of_path = || ROUTES.iter().filter(|route| Some(route.path) == path);
    let exact = of_path().find(|route| route.verb == verb);
    // Of a path that is not asked in this way, the refusal is told to who may ask it otherwise.
    exact.or_else(|| of_path().next()).map_or(READ, |route| route.access)
}

/// Whether there is such a route.
pub(crate) fn is_known(path: Option<&str>, verb: Verb) -> bool {
    ROUTES.iter().any(|route| Some(route.path) == path && route.verb == verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_open_only_if_it_says_so_and_nothing_unknown_is() {
        assert_eq!(access(None, Verb::Get), READ);
        assert_eq!(access(Some("/nowhere"), Verb::Post), READ);
        let open: Vec<&str> =
            ROUTES.iter().filter(|route| route.access == Access::Open).map(|r| r.path).collect();
        assert_eq!(open, ["/health", "/health/live", "/health/ready"]);
        for route in ROUTES.iter().filter(|route| route.verb == Verb::Post) {
            assert_eq!(route.access, ADMIN, "{} changes something", route.path);
        }
    }
}
