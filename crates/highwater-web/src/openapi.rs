//! The OpenAPI document, written from the table of routes and the schemas beside this file.

use axum::Json;
use highwater::report::VERSION;
use highwater::tokens::Scope;
use serde_json::{Map, Value, json};

use crate::routes::{Access, EVENTS, ROUTES, Route, Verb};

const SCHEMAS: &str = include_str!("openapi/schemas.json");

pub(crate) async fn page() -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let mut paths = Map::new();
    // What this version does not have yet is not described.
    for route in ROUTES.iter().filter(|route| !route.about.is_empty()) {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        let verb = match route.verb {
            Verb::Get => "get",
            Verb::Post => "post",
        };
        path[verb] = operation(route);
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Highwater",
            "version": VERSION,
            "description": "What a node of Highwater tells about itself. From the node's own machine \
                everything is open; from elsewhere a token is needed, made by `highwater token create`.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn operation(route: &Route) -> Value {
    let (security, scope) = match route.access {
        Access::Open => (json!([{}]), None),
        Access::Token(scope) => (json!([{}, {"token": []}]), Some(scope)),
    };
    let about = match scope {
        Some(Scope::Admin) => format!("{}. Needs the scope admin.", route.about),
        _ => format!("{}.", route.about),
    };
    let mut operation = json!({
        "summary": about,
        "security": security,
        "parameters": parameters(route),
        "responses": {
            (route.status.to_string()): {"description": route.about, "content": content(route)},
            "default": {
                "description": "Why it was not answered",
                "content": {"application/problem+json": {"schema": reference("Problem")}},
            },
        },
    });
    if route.path.starts_with("/health") && route.path != "/health/live" {
        let failing = json!({"description": "A check fails", "content": content(route)});
        operation["responses"]["503"] = failing;
    }
    if route.verb == Verb::Post {
        let example: Value = serde_json::from_str(route.example).unwrap_or_default();
        let body = json!({"schema": {"type": "object"}, "example": example});
        operation["requestBody"] = json!({"content": {"application/json": body}});
    }
    operation
}

fn parameters(route: &Route) -> Value {
    let in_path =
        route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
    );
    let in_query = route.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name, "in": "query", "description": parameter.about,
            "schema": {"type": parameter.kind},
        })
    });
    in_path.chain(in_query).collect()
}

fn content(route: &Route) -> Value {
    if route.answer == EVENTS {
        return json!({EVENTS: {"schema": {"type": "string"}}});
    }
    if route.answer.is_empty() {
        return json!({"text/plain": {"schema": {"type": "string"}}});
    }
    let mut content = json!({"application/json": {"schema": reference(route.answer)}});
    if route.parameters.iter().any(|parameter| parameter.name == "follow") {
        content["text/event-stream"] = json!({"schema": {"type": "string"}});
    }
    content
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in `value`.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.push(to.clone());
                }
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_every_schema_is_there_and_used() {
        let document = document();
        for route in ROUTES.iter().filter(|route| !route.about.is_empty()) {
            let verb = if route.verb == Verb::Get { "get" } else { "post" };
            assert!(document["paths"][route.path][verb].is_object(), "{}", route.path);
        }
        let mut used = Vec::new();
        references(&document, &mut used);
        for reference in &used {
            let path = reference.strip_prefix('#').expect("all references are local");
            assert!(document.pointer(path).is_some(), "{reference} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
            let path = format!("#/components/schemas/{name}");
            assert!(used.contains(&path), "{name} is described and not used");
        }
    }
}
