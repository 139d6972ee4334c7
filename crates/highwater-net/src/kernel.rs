//! What the kernel knows of a connection: how many segments it sent, and how many it had to send
//! again.
//!
//! It is asked over a netlink socket (`NETLINK_SOCK_DIAG`, as `ss` does), which needs no privilege
//! for a process's own connections, and no unsafe code here as `getsockopt(TCP_INFO)` would. See
//! `linux/inet_diag.h` for the request and `linux/tcp.h` for the answer; both only ever grow at their
//! ends.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// What a connection has sent so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// Segments that carried data.
    pub sent: u64,
    /// Those of them that were sent again for others that were lost. What the receiver says has come
    /// twice (DSACK, RFC 2883) was sent again for an answer that was late, and not lost.
    pub resent: u64,
}

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `INET_DIAG_INFO`: the attribute with a `struct tcp_info`.
const INFO: u16 = 2;
/// Bytes of a netlink header, and of a `struct inet_diag_msg`.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 72;
/// Where `tcpi_total_retrans`, `tcpi_data_segs_out` and `tcpi_dsack_dups` lie in a `struct tcp_info`. The
/// last one came with Linux 4.18.
const TOTAL_RETRANS: usize = 100;
const DATA_SEGS_OUT: usize = 156;
const DSACK_DUPS: usize = 216;
/// An answer is a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// What the connection between these two addresses has sent; `None` when the kernel does not say.
pub(crate) fn segments(local: SocketAddr, remote: SocketAddr) -> Option<Segments> {
    let answer = ask(&question(local, remote)).ok()?;
    let info = info(&answer)?;
    let number = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let (resent, sent) = (number(TOTAL_RETRANS)?, number(DATA_SEGS_OUT)?);
    let twice = number(DSACK_DUPS).unwrap_or_default();
    Some(Segments { sent: sent.into(), resent: resent.saturating_sub(twice).into() })
}

/// A netlink header and a `struct inet_diag_req_v2` for one connection.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut body = Vec::with_capacity(56);
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    body.extend([family, IPPROTO_TCP, 1 << (INFO - 1), 0]);
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    body.extend(sixteen(local.ip()));
    body.extend(sixteen(remote.ip()));
    body.extend(0_u32.to_ne_bytes());
    // No cookie: whichever connection it is.
    body.extend([0xff; 8]);
    let mut question = Vec::with_capacity(HEADER_BYTES + body.len());
    question.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend(body);
    question
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
    }
}

fn ask(question: &[u8]) -> io::Result<Vec<u8>> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    sendto(&socket, question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    // The kernel answers within the call that asks; nothing there means that it does not answer.
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    answer.truncate(length);
    Ok(answer)
}

/// The `struct tcp_info` in an answer.
fn info(answer: &[u8]) -> Option<&[u8]> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None;
    }
    let mut attributes = answer.get(HEADER_BYTES + MESSAGE_BYTES..)?;
    loop {
        let length = u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == INFO {
            return attributes.get(4..length);
        }
        // Attributes begin at multiples of four bytes; one of no length would be the last for ever.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_what_a_connection_has_sent() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else { continue };
            let addr = listener.local_addr().expect("bound");
            let mut near = TcpStream::connect(addr).expect("connected");
            let (mut far, _) = listener.accept().expect("accepted");
            near.write_all(&[1; 5000]).expect("sent");
            far.read_exact(&mut [0; 5000]).expect("received");
            let (local, remote) = (near.local_addr().expect("local"), addr);
            let said = segments(local, remote).expect("the kernel says");
            assert!(said.sent >= 1 && said.resent <= said.sent, "{any}: {said:?}");
            let nobody = SocketAddr::new(remote.ip(), 1);
            assert_eq!(segments(local, nobody), None, "there is no such connection");
        }
    }
}
