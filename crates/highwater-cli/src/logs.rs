//! Logs: to stderr, so that stdout is the answer and nothing else.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};
use crate::failure::Failure;

/// What is logged when nothing else is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    /// What a daemon does.
    Info,
    /// Only what is wrong.
    Warn,
}

/// Starts logging at `usual`, unless the arguments or `HIGHWATER_LOG` say otherwise.
pub(crate) fn start(args: &LogArgs, usual: Level) -> Result<(), Failure> {
    let level = match (args.verbose, args.quiet, usual) {
        (0, 0, Level::Info) => "info",
        (0, 0, Level::Warn) | (_, 1, _) => "warn",
        (1, 0, _) => "debug",
        (_, 0, _) => "trace",
        _ => "error",
    };
    let others = if level == "error" { "error" } else { "warn" };
    let filter = match std::env::var("HIGHWATER_LOG") {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::try_new(wanted).map_err(|e| {
            Failure::wrong(format!("the variable HIGHWATER_LOG is not a log filter: {e}"))
        })?,
        _ => EnvFilter::new(format!("{others},highwater={level}")),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}
