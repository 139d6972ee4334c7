//! As much of JSON schema as the OpenAPI document uses; a keyword that is not known here fails the
//! test, so that nothing is promised that nobody checks.

use serde_json::Value;

/// What is wrong with `value` where `schema` of `document` is promised; empty when nothing is.
pub(crate) fn differences(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, "$", &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else { return found.push(format!("{at}: no schema")) };
    for (keyword, wanted) in schema {
        match keyword.as_str() {
            "$ref" => {
                let path = wanted.as_str().and_then(|to| to.strip_prefix('#')).unwrap_or("?");
                match document.pointer(path) {
                    Some(schema) => check(document, schema, value, at, found),
                    None => found.push(format!("{at}: {path} leads nowhere")),
                }
            }
            "type" => {
                let any = wanted.as_array().cloned().unwrap_or_else(|| vec![wanted.clone()]);
                if !any.iter().any(|kind| is_of(value, kind.as_str().unwrap_or_default())) {
                    found.push(format!("{at}: {value} is not of type {wanted}"));
                }
            }
            "enum" => {
                if !wanted.as_array().is_some_and(|known| known.contains(value)) {
                    found.push(format!("{at}: {value} is not one of {wanted}"));
                }
            }
            "required" => {
                for name in wanted.as_array().into_iter().flatten() {
                    if value.get(name.as_str().unwrap_or_default()).is_none() {
                        found.push(format!("{at}: {name} is missing"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    if let Some(field) = value.get(name) {
                        check(document, schema, field, &format!("{at}.{name}"), found);
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, field) in value.as_object().into_iter().flatten() {
                    let more = !known.is_some_and(|known| known.contains_key(name));
                    match wanted {
                        Value::Bool(false) if more => found.push(format!("{at}: {name} is new")),
                        Value::Object(_) if more => {
                            check(document, wanted, field, &format!("{at}.{name}"), found);
                        }
                        _ => {}
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, item, &format!("{at}[{index}]"), found);
                }
            }
            "format" | "description" => {}
            other => found.push(format!("{at}: the keyword {other} is not known to this test")),
        }
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

#[test]
fn the_checker_of_schemas_can_say_no() {
    let document = serde_json::json!({"s": {"type": "object", "required": ["a"],
        "additionalProperties": false, "properties": {"a": {"type": "integer"}}}});
    let schema = serde_json::json!({"$ref": "#/s"});
    for (value, wrong) in [
        (serde_json::json!({"a": 1}), 0),
        (serde_json::json!({}), 1),
        (serde_json::json!({"a": "1"}), 1),
        (serde_json::json!({"a": 1, "b": 2}), 1),
        (serde_json::json!([]), 2),
    ] {
        assert_eq!(differences(&document, &schema, &value).len(), wrong, "{value}");
    }
}
