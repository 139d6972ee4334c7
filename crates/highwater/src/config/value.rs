//! Single values as people write them: durations, addresses, ids. Each is parsed from text by one
//! rule, whether it stands in the file or in the environment.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use highwater_core::NodeId;
use serde::Deserialize;

/// A duration such as `"250ms"`, `"5s"`, `"10m"`, `"1h"`, `"7d"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Wait(pub(super) Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not a duration; write \"250ms\", \"5s\" or \"1h\"");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(refused()),
        };
        let wait_ms = number.checked_mul(unit_ms).filter(|&ms| ms <= WAIT_MS_MAX);
        wait_ms
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| format!("{text:?} is longer than a year, which no wait here is"))
    }
}

/// A rate such as `"500KB/s"`, `"20MB/s"`, `"1GiB/s"`; `"unlimited"` is none. In bytes a second, 0 for
/// no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Rate(pub(super) u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not a rate; write \"20MB/s\" or \"unlimited\"");
        if text == "unlimited" {
            return Ok(Self(0));
        }
        let size = text.strip_suffix("/s").ok_or_else(refused)?;
        let digits = size.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = size.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit: u64 = match unit {
            "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(refused()),
        };
        let rate = number.checked_mul(unit).filter(|&rate| rate > 0 && rate < 1 << 50);
        rate.map(Self).ok_or_else(refused)
    }
}

/// No wait is longer than a year: what goes beyond is a slip of the unit, and would overflow timers.
const WAIT_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;

/// A number of bytes such as `"500MB"` or `"1GiB"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not a size; write \"500MB\" or \"1GiB\"");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let unit: u64 = match unit {
            "B" => 1,
            "kB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(refused()),
        };
        number.checked_mul(unit).map(Self).ok_or_else(refused)
    }
}

/// An address to listen on, `IP:PORT`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(pub(super) SocketAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("{text:?} is not IP:PORT; write \"127.0.0.1:8080\" or \"[::]:7420\"")
        })
    }
}

/// An address to dial, `HOST:PORT`; the name is looked up at every attempt.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct HostPort(pub(super) String);

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_host_port(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// Whether `text` is `HOST:PORT` with a port that can be dialled.
pub(crate) fn check_host_port(text: &str) -> Result<(), String> {
    let refused = || format!("{text:?} is not HOST:PORT; write \"192.0.2.7:7420\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    let dialled = port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let known = plain || (bracketed && text.parse::<SocketAddr>().is_ok());
    if dialled && known { Ok(()) } else { Err(refused()) }
}

/// Longest host name of the domain name system.
const HOST_BYTES_MAX: usize = 253;

/// A node id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Id(pub(super) NodeId);

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: highwater_core::id::ParseIdError| e.to_string())
    }
}

macro_rules! from_string {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )*};
}

from_string!(Wait, Size, Rate, Address, HostPort, Id);
