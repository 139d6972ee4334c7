//! The fault proxy by hand or by script: one JSON order a line in, one JSON answer a line out.
//!
//! Orders are carried out one after the other. An order that cannot be understood is answered with
//! an error and changes nothing.

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::{CutKind, Direction, Faults, Survivors};
use crate::proxy::Proxy;

/// How often a script that waits for bytes asks whether they have passed.
const WAIT_INTERVAL: Duration = Duration::from_millis(2);

/// One order to the proxy.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Puts faults on a direction.
    Set { direction: Direction, faults: Faults },
    /// Cuts the link.
    Cut(CutKind),
    /// Ends every open connection.
    Sever(CutKind),
    /// Opens the link again.
    Heal(Survivors),
    /// Waits.
    WaitMs(u64),
    /// Waits until the link has carried so much.
    WaitBytes { direction: Direction, bytes: u64 },
    /// Says what was done and carried.
    Report,
}

/// Opens a link and carries out orders from standard input until it ends.
pub fn run(listen: SocketAddr, target: SocketAddr) -> Result<()> {
    let proxy = Proxy::start(listen, target)
        .with_context(|| format!("opening a link from {listen} to {target}"))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", json!({"event": "ready", "listen": proxy.addr(), "target": target}))?;
    for line in io::stdin().lock().lines() {
        let line = line.context("reading an order")?;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match serde_json::from_str(&line) {
            Ok(order) => obey(&proxy, order)?,
            Err(error) => json!({"error": format!("not an order: {error}")}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn obey(proxy: &Proxy, order: Order) -> Result<Value> {
    match order {
        Order::Set { direction, faults } => proxy.set(direction, faults),
        Order::Cut(kind) => proxy.cut(kind),
        Order::Sever(kind) => proxy.sever(kind),
        Order::Heal(survivors) => proxy.heal_with(survivors),
        Order::WaitMs(ms) => thread::sleep(Duration::from_millis(ms)),
        Order::WaitBytes { direction, bytes } => {
            while proxy.report().bytes(direction) < bytes {
                thread::sleep(WAIT_INTERVAL);
            }
        }
        Order::Report => return Ok(serde_json::to_value(proxy.report())?),
    }
    Ok(json!({"done": true}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The orders that the program's help shows.
    #[test]
    fn the_orders_in_the_help_are_understood() {
        let orders = [
            r#"{"set":{"direction":"forward","faults":{"delay_ms":20}}}"#,
            r#"{"cut":"silent"}"#,
            r#"{"sever":"reset"}"#,
            r#"{"heal":"resume"}"#,
            r#"{"wait_ms":500}"#,
            r#"{"wait_bytes":{"direction":"forward","bytes":1000000}}"#,
            r#""report""#,
        ];
        for order in orders {
            serde_json::from_str::<Order>(order).unwrap_or_else(|e| panic!("{order}: {e}"));
        }
    }
}
