//! Programs whose wall clock is wrong, by libfaketime where that is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What shifts a program's clock, as Debian installs it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A script in `dir` that runs `exe` with the clock that [`shift_clock`] sets for its home; `None`,
/// with a word on the error output, where clocks cannot be shifted.
///
/// # Errors
/// When it cannot be written.
pub fn with_clock(exe: &Path, dir: &Path) -> Result<Option<PathBuf>> {
    if !Path::new(FAKETIME).exists() {
        eprintln!("skipped: libfaketime is not installed (apt-get install libfaketime)");
        return Ok(None);
    }
    let exe = exe.canonicalize().with_context(|| format!("finding {}", exe.display()))?;
    // The program is called as `exe --home HOME COMMAND`. Only the wall clock is shifted.
    let text = format!(
        "#!/bin/sh\nif [ -e \"$2/../clock\" ]; then\nexport LD_PRELOAD={FAKETIME} \
         FAKETIME_TIMESTAMP_FILE=\"$2/../clock\" FAKETIME_CACHE_DURATION=1 \
         FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\nfi\nexec {} \"$@\"\n",
        exe.display()
    );
    let script = dir.join("highwater-with-clock.sh");
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(Some(script))
}

/// Shifts the clock of the node with this home by so many seconds. Before its start it must have been
/// set once, to 0 at least.
///
/// # Errors
/// When it cannot be written.
pub fn shift_clock(home: &Path, seconds: i64) -> Result<()> {
    let path = home.parent().context("a home has a parent")?.join("clock");
    fs::write(&path, format!("{seconds:+}\n")).with_context(|| path.display().to_string())
}
