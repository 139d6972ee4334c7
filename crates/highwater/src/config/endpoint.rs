//! Where this node sends things of its own accord: URLs, and the networks that they may lead into.
//!
//! A URL is taken apart here, once, by rules that leave nothing to interpretation: only `http` and
//! `https`, no user or password, plain ASCII, and a port that is meant for such things. Where its
//! host really leads is looked at when it is called; see [`Network::is_public`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// Ports below this belong to services that take commands in plain text; only the web's own are
/// called.
const PORT_MIN: u16 = 1024;

/// A URL that may be called.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    /// Whether the receiver has to prove its name, and what is sent is hidden from others.
    pub https: bool,
    /// The host as it was written: a name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path and the query; it begins with `/`.
    pub path: String,
}

impl Endpoint {
    /// The `Host` header for a request to it.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?} is not a URL to send to: {why}");
        if text.len() > URL_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refused("write it in at most 2048 plain ASCII characters"));
        }
        let (https, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(refused("it begins with http:// or https://")),
        };
        if text.contains(['#', '\\']) {
            return Err(refused("it has neither # nor \\"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(refused("it names no user; the receiver knows this node by its signature"));
        }
        let (host, port) = host_and_port(authority).ok_or_else(|| refused("HOST or HOST:PORT"))?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        if port < PORT_MIN && !matches!(port, 80 | 443) {
            return Err(refused("the port is 80, 443, or 1024 and above"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { https, host, port, path })
    }
}

/// The two parts of `HOST:PORT`, `HOST`, `[IPv6]:PORT` or `[IPv6]`.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| match text.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().map(Some),
        Some(_) => None,
        None => text.is_empty().then_some(None),
    };
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return Some((host.to_owned(), port(rest)?));
    }
    let end = authority.find(':').unwrap_or(authority.len());
    let (host, rest) = authority.split_at(end);
    super::check_host_port(&format!("{host}:1")).ok()?;
    Some((host.to_owned(), port(rest)?))
}

/// A network that calls may lead into although it is not public: `10.0.0.0/8`, `127.0.0.1`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `addr` lies in this network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let masked = |bits: u128, width: u8| {
            let shift = u32::from(width.saturating_sub(self.prefix));
            bits.checked_shr(shift).unwrap_or(0)
        };
        match (self.base, addr.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(addr)) => {
                masked(base.to_bits().into(), 32) == masked(addr.to_bits().into(), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(addr)) => {
                masked(base.to_bits(), 128) == masked(addr.to_bits(), 128)
            }
            _ => false,
        }
    }

    /// Whether `addr` belongs to the public internet, so that a call to it cannot reach what only
    /// this machine or its neighbours are meant to reach.
    pub fn is_public(addr: IpAddr) -> bool {
        match addr.to_canonical() {
            IpAddr::V4(addr) => is_public_v4(addr),
            IpAddr::V6(addr) => is_public_v6(addr),
        }
    }
}

fn is_public_v4(addr: Ipv4Addr) -> bool {
    let [a, b, c, _] = addr.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let special = (a, b, c) == (192, 0, 0) || (a == 198 && matches!(b, 18 | 19));
    !(addr.is_private()
        || addr.is_loopback()
        || addr.is_link_local()
        || addr.is_multicast()
        || addr.is_broadcast()
        || addr.is_documentation()
        || a == 0
        || a >= 240
        || shared
        || special)
}

fn is_public_v6(addr: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, high, low] = addr.segments();
    let embedded = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match (a, b) {
        // Addresses of the older kind, translated or tunnelled, are judged as what they lead to.
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => embedded(high, low),
        (0x2002, _) => embedded(b, c),
        (0x2001, 0 | 0xdb8) => false,
        // Everything else that is given out lies in 2000::/3.
        _ => a & 0xe000 == 0x2000,
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("{text:?} is not a network; write \"10.0.0.0/8\" or \"127.0.0.1\"");
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix.parse::<u8>().map_err(|_| refused())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| refused())?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(refused());
        }
        Ok(Self { base, prefix })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_are_called() {
        let rows = [
            ("http://example.net", "http://example.net/"),
            ("https://example.net:8443/hook?x=1", "https://example.net:8443/hook?x=1"),
            ("http://[2001:db8::1]:9093/a", "http://[2001:db8::1]:9093/a"),
            ("https://example.net:443?q", "https://example.net/?q"),
        ];
        for (text, shown) in rows {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), shown);
        }
        for (text, why) in [
            ("file:///etc/passwd", "another scheme"),
            ("gopher://example.net/", "another scheme"),
            ("ftp://example.net/", "another scheme"),
            ("HTTP://example.net/", "a scheme is written small"),
            ("http://user:pass@example.net/", "a password"),
            ("http://example.net@evil.example/", "a user that looks like a host"),
            ("http://example.net/\r\nX: y", "a line break"),
            ("http://exämple.net/", "a host that is not ASCII"),
            ("http://example.net:22/", "the port of ssh"),
            ("http://example.net:25/", "the port of mail"),
            ("http://example.net:0/", "no port"),
            ("http://example.net:65536/", "no port"),
            ("http://example.net:+80/", "no port"),
            ("http:///path", "no host"),
            ("http://[::1/", "half an address"),
            ("http://a\\b/", "a backslash, which some take for a slash"),
            ("http://example.net/#x", "a fragment"),
            ("", "nothing"),
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}: {why}");
        }
    }

    #[test]
    fn what_is_not_public_is_known_in_every_spelling() {
        for addr in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "192.0.2.1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "::127.0.0.1",
            "fec0::1",
        ] {
            assert!(!Network::is_public(addr.parse().expect(addr)), "{addr}");
        }
        for addr in ["9.9.9.9", "172.32.0.1", "100.128.0.1", "2620:fe::fe", "64:ff9b::909:909"] {
            assert!(Network::is_public(addr.parse().expect(addr)), "{addr}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let rows = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "8.8.8.8", false),
        ];
        for (network, addr, inside) in rows {
            let network: Network = network.parse().expect(network);
            assert_eq!(network.contains(addr.parse().expect(addr)), inside, "{network:?} {addr}");
        }
        for text in ["10.0.0.0/33", "10.0.0.0/x", "example.net", "", "::1/129"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
