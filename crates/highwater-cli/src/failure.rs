//! Why a command failed, and the exit code that says so to scripts.

use std::fmt::Display;
use std::io;

use highwater::config::ConfigError;
use highwater::config_edit::EditError;
use highwater::control::ControlError;
use highwater::home::{HomeError, IdentityError};
use highwater::tokens::TokenError;

/// The exit codes of the contract, beside 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Code {
    /// The operation failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// A check ran and found differences.
    Differences = 3,
    /// The daemon of this home is not reachable.
    Unreachable = 4,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One sentence for people, one code for scripts.
    Told { code: Code, message: String },
    /// It has been said already; only the code is left to give.
    Shown(Code),
    /// Nobody reads the output any more. That is the reader's right, not an error.
    NoReader,
}

impl Failure {
    pub(crate) fn failed(message: impl Display) -> Self {
        Self::Told { code: Code::Failed, message: message.to_string() }
    }

    /// For settings that cannot be used.
    pub(crate) fn wrong(message: impl Display) -> Self {
        Self::told(Code::Usage, message)
    }

    /// For a command that the contract names and this version does not have.
    pub(crate) fn later(command: &str) -> Self {
        Self::failed(format!("`highwater {command}` is not available in this version"))
    }

    /// For arguments that were not understood.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or("wrong usage").trim_start_matches("error: ");
        Self::told(Code::Usage, format!("{first}; see `highwater help`"))
    }

    fn told(code: Code, message: impl Display) -> Self {
        Self::Told { code, message: message.to_string() }
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        let code = match error {
            HomeError::NoDefault | HomeError::NotInitialised { .. } => Code::Usage,
            _ => Code::Failed,
        };
        Self::told(code, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::told(Code::Usage, error)
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Home(e) => e.into(),
            EditError::Config(e) => e.into(),
            other => Self::failed(other),
        }
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Home(e) => e.into(),
            other => Self::failed(other),
        }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match error {
            ControlError::Refused(_) => Code::Failed,
            _ => Code::Unreachable,
        };
        Self::told(code, error)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::failed(error)
    }
}

/// Only writing the output ends in a bare input/output error.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NoReader,
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}
