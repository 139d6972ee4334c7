//! The program that is installed.

use std::process::ExitCode;

fn main() -> ExitCode {
    highwater_cli::main()
}
