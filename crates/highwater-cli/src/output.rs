//! Where answers go: stdout, as JSON or for people.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::text::escaped;

/// Writes the answer of one command.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    colour: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { stdout: BufWriter::new(io::stdout()), json, colour: colour && !json }
    }

    /// Whether the answer is for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Writes one JSON value on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        Ok(writeln!(self.stdout)?)
    }

    /// Writes one line for people.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// Writes one line for people that stands out on a terminal.
    pub(crate) fn heading(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.colour { self.line(format_args!("\x1b[1m{text}\x1b[0m")) } else { self.line(text) }
    }

    /// Writes one line for people about something wrong.
    pub(crate) fn alarm(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.colour { self.line(format_args!("\x1b[31m{text}\x1b[0m")) } else { self.line(text) }
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stdout.write_all(bytes)?)
    }

    /// Makes everything written visible now.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }

    /// Says why a command failed, and returns its exit code.
    pub(crate) fn fail(&mut self, failure: &Failure) -> ExitCode {
        // Whatever was written before the failure stays part of the answer.
        let flushed = self.stdout.flush();
        match failure {
            Failure::NoReader => ExitCode::SUCCESS,
            Failure::Shown(code) => ExitCode::from(*code as u8),
            Failure::Told { code, message } => {
                if self.json && flushed.is_ok() {
                    let document = json!({"error": message, "exit_code": *code as u8});
                    // There is nobody left to tell that telling failed.
                    let _ = writeln!(io::stdout(), "{document}");
                } else {
                    let _ = writeln!(io::stderr(), "highwater: {}", escaped(message));
                }
                ExitCode::from(*code as u8)
            }
        }
    }
}
