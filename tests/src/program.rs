//! The program that the tests run. It is one of this package, so that Cargo builds it along with them
//! and from the same libraries: those of `highwater` itself are built without what tests need, and
//! building everything once more takes minutes.

use std::process::ExitCode;

fn main() -> ExitCode {
    highwater_cli::main()
}
