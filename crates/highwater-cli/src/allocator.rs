//! Settings of the C library's allocator: how much freed memory a long-running daemon keeps.

/// Tunes glibc for a daemon that moves large buffers on few threads.
///
/// Its defaults give each thread an arena, and keep what a large transfer has freed: measured, an
/// idle node is several times as large with them. With any other C library this does nothing.
pub(crate) fn tune() {
    #[cfg(target_env = "gnu")]
    glibc::tune();
}

/// From now on buffers are used again and again: those of transfers stay in the heap when they are freed.
/// Before that, large ones come fresh from the system.
pub(crate) fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    glibc::keep_buffers();
}

/// Gives memory that nobody uses back to the system. Takes milliseconds and holds up allocations
/// meanwhile: for moments in which nothing else happens.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    glibc::trim();
}

#[cfg(target_env = "gnu")]
mod glibc {
    /// Two worker threads hardly ever meet in one arena.
    const ARENAS_MAX: i32 = 2;
    /// The longest chunk is 4 MiB: buffers of that size go back to the system when freed.
    const MMAP_THRESHOLD_BYTES: i32 = 4 * 1024 * 1024;
    /// While the node starts sled allocates 41 tables of 512 KiB, all zeros, for measurements that it
    /// does not make. Fresh from the system they take no pages; in what the heap has left over the zeros
    /// are written, and 5 MB of them stay resident for good (measured, in one start of three).
    const MMAP_THRESHOLD_AT_START_BYTES: i32 = 256 * 1024;
    /// Free memory kept at the top of the heap, instead of being asked for again.
    const TRIM_THRESHOLD_BYTES: i32 = 8 * 1024 * 1024;

    #[allow(unsafe_code, reason = "mallopt has no safe form; it only stores these numbers")]
    pub(super) fn tune() {
        // SAFETY: called first thing in main, before there is another thread, with valid options.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_AT_START_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
        }
    }

    #[allow(unsafe_code, reason = "mallopt has no safe form; it only stores this number")]
    pub(super) fn keep_buffers() {
        // SAFETY: it takes the allocator's own lock, and the option is valid.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
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
