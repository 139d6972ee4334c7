//! `highwater token`: access to the HTTP API beyond this machine.
//!
//! It works on the file in the home, whether the daemon runs or not; the daemon reads that file
//! whenever it is shown a token.

use std::time::{SystemTime, UNIX_EPOCH};

use highwater::home::{Home, HomeError};
use highwater::tokens::{TokenRow, Tokens};
use highwater_core::WallTime;
use serde_json::json;

use crate::args::TokenCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::table;

/// Carries out one command on the tokens of a node.
pub(crate) fn token(
    home: &Home,
    command: TokenCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    if !home.config_path().exists() {
        return Err(HomeError::NotInitialised { dir: home.dir().to_owned() }.into());
    }
    let tokens = Tokens::of(home);
    match command {
        TokenCommand::Create { scope, expires } => {
            let (token, row) = tokens.create(scope, expires, now())?;
            if output.is_json() {
                return output.json(&json!({
                    "id": row.id, "scope": row.scope, "created": row.created,
                    "expires": row.expires, "token": token,
                }));
            }
            eprintln!("It is shown this once. Send it as `Authorization: Bearer TOKEN`.");
            output.line(token)
        }
        TokenCommand::List => list(&tokens.list(now())?, output),
        TokenCommand::Revoke { id } => {
            tokens.revoke(&id)?;
            if output.is_json() {
                return output.json(&json!({"done": true, "id": id}));
            }
            output.line(format!("token {id} is revoked"))
        }
    }
}

fn list(rows: &[TokenRow], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&json!({"tokens": rows}));
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let expires = row.expires.clone().unwrap_or_else(|| "never".to_owned());
            [row.id.clone(), row.scope.to_string(), row.created.clone(), expires]
        })
        .collect();
    let mut lines = table(["ID", "SCOPE", "CREATED", "EXPIRES"], &rows).into_iter();
    if let Some(heading) = lines.next() {
        output.heading(heading)?;
    }
    lines.try_for_each(|line| output.line(line))
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
