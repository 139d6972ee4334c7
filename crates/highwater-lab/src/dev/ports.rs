//! Who holds a TCP port of this machine, as far as the kernel tells this user.
//!
//! The kernel lists listening sockets with their inode, and every process the inodes of its open
//! files; only the owner of a process, and root, may look at those. Nothing here opens a port for
//! longer than it takes to find out that it is free.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The state `LISTEN` in the kernel's table of sockets.
const LISTENING: &str = "0A";

/// A process that was killed holds its ports until the last of its threads is gone.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// How often a port is tried meanwhile.
const PORT_INTERVAL: Duration = Duration::from_millis(20);

/// Fails unless all of these addresses can be listened on; the sentence names the first that cannot
/// and who may have it.
pub(super) fn demand_free(addrs: impl IntoIterator<Item = SocketAddr>) -> Result<()> {
    let deadline = Instant::now() + PORT_PATIENCE;
    for addr in addrs {
        while let Err(error) = TcpListener::bind(addr) {
            if Instant::now() < deadline {
                thread::sleep(PORT_INTERVAL);
                continue;
            }
            let port = addr.port();
            bail!(
                "port {port} cannot be had ({error}): {}; stop that, or choose other ports with \
                 --http and --sync",
                holder(port)
            );
        }
    }
    Ok(())
}

/// A few words on who listens on `port`.
fn holder(port: u16) -> String {
    let inodes: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    if inodes.is_empty() {
        return "nobody listens on it, so it may be reserved or in its last seconds".to_owned();
    }
    match owner(&inodes) {
        Some((pid, name)) => format!("process {pid} ({name}) holds it"),
        None => "a process of another user holds it".to_owned(),
    }
}

/// The inodes of sockets that listen on `port`, from one of the kernel's tables.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        let here = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (here == port && state == LISTENING).then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// The first process that has one of these sockets open, and its name.
fn owner(inodes: &BTreeSet<String>) -> Option<(u32, String)> {
    let links: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let has = |path: &Path| {
            fs::read_link(path).is_ok_and(|link| links.contains(&*link.to_string_lossy()))
        };
        open.into_iter().any(|file| has(&file.path())).then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            (pid, name.trim().replace(char::is_control, "?"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_the_process_that_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = taken.local_addr().expect("bound");
        let refused = demand_free([addr]).expect_err("taken").to_string();
        assert!(refused.contains(&format!("port {}", addr.port())), "{refused}");
        assert!(refused.contains(&format!("process {} (", std::process::id())), "{refused}");
        drop(taken);
        demand_free([addr]).expect("free again");
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
             1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(listening_inodes(table, 8080), ["4711"]);
    }
}
