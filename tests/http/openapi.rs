//! The OpenAPI document against the running daemon: what is promised is served, in the promised form.

use serde_json::Value;

use super::{Served, schema, wait_for};

#[test]
fn what_the_document_promises_is_served_in_the_promised_form() {
    let served = Served::with("");
    std::fs::write(served.node.folder("docs").join("a.txt"), "one").expect("written");
    wait_for("the file is in the log", || {
        let log = served.get("/api/v1/shares/docs/changes").json();
        (!log["changes"].as_array()?.is_empty()).then_some(())
    });
    let order = ["Content-Type: application/json"];
    let begun = served.ask("POST", "/api/v1/checks", &order, "{\"share\":\"docs\"}").json();
    let check = begun["id"].as_str().expect("an id").to_owned();
    let document = served.get("/api/v1/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 10, "{:?}", paths.keys());
    for (path, operations) in paths {
        for (verb, operation) in operations.as_object().expect("operations") {
            let only = operation["responses"]["200"]["content"].as_object();
            if only.is_some_and(|only| only.len() == 1 && only.contains_key("text/event-stream")) {
                assert!(served.begins_stream(path), "{path}");
                continue;
            }
            let real = path.replace("{share}", "docs").replace("{id}", &check);
            let (answer, well) = match verb.as_str() {
                "get" => (served.get(&real), 200),
                "post" => {
                    let body = operation["requestBody"]["content"]["application/json"]["example"]
                        .to_string();
                    let well = if operation["responses"].get("202").is_some() { 202 } else { 200 };
                    (served.ask("POST", &real, &["Content-Type: application/json"], &body), well)
                }
                other => panic!("{path}: the verb {other} is never served"),
            };
            assert_eq!(answer.status, well, "{verb} {path}: {answer:?}");
            let promised = &operation["responses"][well.to_string()]["content"];
            let Some(promised) = promised.get("application/json") else {
                assert!(answer.head.contains("content-type: text/plain"), "{path}: {answer:?}");
                continue;
            };
            assert!(answer.head.contains("content-type: application/json"), "{path}: {answer:?}");
            let wrong = schema::differences(&document, &promised["schema"], &answer.json());
            assert!(wrong.is_empty(), "{verb} {path}: {wrong:#?}");
            let problem = served.ask("PUT", &real, &[], "");
            let wanted = &document["components"]["schemas"]["Problem"];
            let wrong = schema::differences(&document, wanted, &problem.json());
            assert!(wrong.is_empty(), "a refusal of {path}: {wrong:#?}");
        }
    }
}

#[test]
fn what_is_not_promised_is_not_served() {
    let served = Served::with("");
    let document = served.get("/api/v1/openapi.json").json();
    let promised = |path: &str, verb: &str| document["paths"][path].get(verb).is_some();
    for path in ["/api", "/api/v1", "/api/v1/nothing", "/health/more", "/debug/pprof", "/metrics/x"]
    {
        assert!(!promised(path, "get"));
        served.get(path).expect_problem(404, path);
    }
    for path in document["paths"].as_object().expect("paths").keys() {
        if !promised(path, "post") {
            let real = path.replace("{share}", "docs").replace("{id}", "x");
            let refused = served.ask("POST", &real, &["Content-Type: application/json"], "{}");
            refused.expect_problem(405, path);
            assert!(refused.head.contains("allow:"), "{path}: {refused:?}");
        }
    }
    for path in ["/", "/api/v1/checks"] {
        let answer = served.get(path);
        let documented: &Value = &document["paths"][path];
        assert_eq!(answer.status == 501, documented.is_null(), "{path}: {answer:?}");
    }
}
