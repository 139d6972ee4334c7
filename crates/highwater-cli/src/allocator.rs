//! How much memory a long-running daemon keeps that it does not use: settings of the C library's
//! allocator, and the code that was needed only to start.

/// Tunes glibc for a daemon that moves large buffers on few threads.
///
/// Its defaults give each thread an arena, and keep what a large transfer has freed: measured, an
/// idle node is several times as large with them. With any other C library this does nothing.
pub(crate) fn tune() {
    #[cfg(target_env = "gnu")]
    glibc::tune();
}

/// Gives memory that nobody uses back to the system. Takes milliseconds and holds up allocations
/// meanwhile: for moments in which nothing else happens.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    glibc::trim();
    #[cfg(target_os = "linux")]
    code::let_go();
}

#[cfg(target_env = "gnu")]
mod glibc {
    /// Two worker threads hardly ever meet in one arena.
    const ARENAS_MAX: i32 = 2;
    /// The longest chunk is 4 MiB: buffers of that size go back to the system when freed.
    const MMAP_THRESHOLD_BYTES: i32 = 4 * 1024 * 1024;
    /// Free memory kept at the top of the heap, instead of being asked for again.
    const TRIM_THRESHOLD_BYTES: i32 = 8 * 1024 * 1024;

    #[allow(unsafe_code, reason = "mallopt has no safe form; it only stores these numbers")]
    pub(super) fn tune() {
        // SAFETY: called first thing in main, before there is another thread, with valid options.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
        }
    }

    #[allow(unsafe_code, reason = "malloc_trim has no safe form; it may be called at any time")]
    pub(super) fn trim() {
        // SAFETY: it takes the allocator's own locks and touches free memory alone.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

#[cfg(target_os = "linux")]
mod code {
    use std::ops::Range;

    /// Longest list of mappings that is read: a daemon has some two hundred lines of it.
    const MAPS_BYTES_MAX: usize = 1024 * 1024;

    /// Lets go of the program's code. What runs is mapped again from the file's cached pages, which
    /// costs some ten microseconds in all; what only started the daemon, most of the program, is not.
    pub(super) fn let_go() {
        for range in mapped() {
            drop_pages(range);
        }
    }

    /// Where the code of this program is mapped; nothing when the system does not say.
    fn mapped() -> Vec<Range<usize>> {
        let exe = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let Some(exe) = exe.to_str().filter(|_| maps.len() <= MAPS_BYTES_MAX) else {
            return Vec::new();
        };
        maps.lines().filter_map(|line| code_of(line, exe)).collect()
    }

    /// The range of a line of `/proc/self/maps`, if it is private code of `exe`.
    fn code_of(line: &str, exe: &str) -> Option<Range<usize>> {
        let (range, rest) = line.split_once(' ')?;
        let rest = rest.strip_prefix("r-xp ")?;
        if exe.is_empty() || rest.split_once('/')?.1 != exe.strip_prefix('/')? {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let parse = |hex| usize::from_str_radix(hex, 16).ok();
        Some(parse(start)?..parse(end)?)
    }

    #[allow(unsafe_code, reason = "madvise has no safe form")]
    fn drop_pages(range: Range<usize>) {
        // SAFETY: the range is a mapping of this program's file that nobody can write to, so every
        // page of it is as the file has it, and is read from there again when it is needed.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_private_code_of_the_program_itself_is_let_go() {
            let line = "55e0-66f0 r-xp 0062d000 fe:00 12  /opt/a b/highwater";
            assert_eq!(code_of(line, "/opt/a b/highwater"), Some(0x55e0..0x66f0));
            for (line, why) in [
                ("55e0-66f0 rw-p 0062d000 fe:00 12  /opt/a b/highwater", "data"),
                ("55e0-66f0 r--p 0062d000 fe:00 12  /opt/a b/highwater", "constants"),
                ("55e0-66f0 r-xp 0062d000 fe:00 12  /lib/libc.so.6", "a library"),
                ("55e0-66f0 r-xp 00000000 00:00 0  [vdso]", "the kernel's"),
            ] {
                assert_eq!(code_of(line, "/opt/a b/highwater"), None, "{why}");
            }
        }

        #[test]
        fn a_program_that_has_let_go_of_its_code_goes_on() {
            let before = mapped();
            assert!(!before.is_empty(), "this program is mapped");
            let_go();
            assert_eq!(mapped(), before);
        }
    }
}
