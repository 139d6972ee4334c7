//! The real program, held against the contract: commands, exit codes, formats.

#![forbid(unsafe_code)]

mod commands;
mod daemon;
mod dev;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use highwater_tests::highwater;
use serde_json::Value;
use tempfile::TempDir;

/// A home that may not exist yet, and the program on it.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A home that has been initialised, on ports that nobody uses.
    fn initialised() -> Home {
        let home = Home::new();
        let [sync, http] =
            [0, 1].map(|_| highwater_lab::net::free_loopback().expect("a free port").to_string());
        let args = ["init", "--name", "n", "--user", "u", "--sync", &sync, "--http", &http];
        home.run(&args).expect_code(0);
        home
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("home")
    }

    fn config(&self) -> std::path::PathBuf {
        self.path().join("config.toml")
    }

    fn command(&self) -> Command {
        let mut command = program();
        command.arg("--home").arg(self.path());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.command().args(args), &args.join(" "))
    }

    fn run_on(&self, args: &[&str], path: &Path) -> Outcome {
        Outcome::of(self.command().args(args).arg(path), &args.join(" "))
    }
}

/// The program without any setting of the one who runs the tests.
fn program() -> Command {
    let mut command = Command::new(highwater());
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("HIGHWATER_") {
            command.env_remove(key);
        }
    }
    command
}

/// How a command went.
struct Outcome {
    what: String,
    output: Output,
}

impl Outcome {
    fn of(command: &mut Command, what: &str) -> Outcome {
        let output = command.stdin(Stdio::null()).output().expect("the program starts");
        Outcome { what: what.to_owned(), output }
    }

    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn expect_code(&self, code: i32) -> &Self {
        let (out, err) = (self.stdout(), self.stderr());
        let what = &self.what;
        assert_eq!(self.output.status.code(), Some(code), "{what}\nout: {out}\nerr: {err}");
        self
    }

    /// The one JSON document on standard output.
    #[track_caller]
    fn json(&self) -> Value {
        let out = self.stdout();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{}: {error}: {out}", self.what))
    }
}
