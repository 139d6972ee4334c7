//! Figures of the process and its store, as the kernel has them; under the names that every program
//! gives them.

use std::fs;
use std::path::Path;

use super::text::{Kind, Page};

/// Ticks of a second in `/proc`; fixed by the kernel's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What was found; `None` for what the system does not tell.
#[derive(Debug, Default)]
pub(super) struct Found {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    threads: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
    start_seconds: Option<f64>,
    store_bytes: f64,
}

/// Looks at this process and at its store.
pub(super) fn look(store: &Path) -> Found {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| Some(number(&status, name)? * 1024.0);
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything; the state behind it is the third field.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    Found {
        cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, own)| (user + own) / TICKS_PER_SECOND),
        resident_bytes: kib("VmRSS:"),
        virtual_bytes: kib("VmSize:"),
        threads: number(&status, "Threads:"),
        open_fds: fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as f64),
        max_fds: number(&limits, "Max open files"),
        start_seconds: ticks(22)
            .zip(number(&booted, "btime"))
            .map(|(began, boot)| boot + began / TICKS_PER_SECOND),
        store_bytes: size(store),
    }
}

/// The number that follows `name` at the beginning of a line.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Bytes of the files in a directory and the directories in it.
fn size(dir: &Path) -> f64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0.0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len() as f64,
        Err(_) => 0.0,
    };
    entries.flatten().map(of).sum()
}

pub(super) fn show(page: &mut Page, found: &Found) {
    let rows: [(&str, Kind, &str, Option<f64>); 8] = [
        (
            "process_cpu_seconds_total",
            Kind::Counter,
            "Processor time of the daemon, in seconds.",
            found.cpu_seconds,
        ),
        (
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory of the daemon that is in RAM.",
            found.resident_bytes,
        ),
        (
            "process_virtual_memory_bytes",
            Kind::Gauge,
            "Address space of the daemon.",
            found.virtual_bytes,
        ),
        ("process_threads", Kind::Gauge, "Threads of the daemon.", found.threads),
        ("process_open_fds", Kind::Gauge, "Open file descriptors.", found.open_fds),
        ("process_max_fds", Kind::Gauge, "File descriptors that may be open.", found.max_fds),
        (
            "process_start_time_seconds",
            Kind::Gauge,
            "When the daemon was started, in seconds since 1970.",
            found.start_seconds,
        ),
        (
            "highwater_store_bytes",
            Kind::Gauge,
            "Bytes of the store on disk.",
            Some(found.store_bytes),
        ),
    ];
    for (name, kind, help, value) in rows {
        if let Some(value) = value {
            page.single(name, kind, help, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let dir = tempfile::tempdir().expect("scratch");
        fs::create_dir(dir.path().join("d")).expect("made");
        fs::write(dir.path().join("d/f"), [0; 1000]).expect("written");
        let found = look(dir.path());
        assert_eq!(found.store_bytes, 1000.0);
        for (what, value, least) in [
            ("cpu", found.cpu_seconds, 0.0),
            ("resident", found.resident_bytes, 100_000.0),
            ("virtual", found.virtual_bytes, 100_000.0),
            ("threads", found.threads, 1.0),
            ("open", found.open_fds, 3.0),
            ("most", found.max_fds, 16.0),
            ("start", found.start_seconds, 1_600_000_000.0),
        ] {
            assert!(value.is_some_and(|value| value >= least), "{what}: {value:?}");
        }
    }
}
