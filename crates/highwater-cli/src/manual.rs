//! Completions and manual pages, made from the arguments themselves.

use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Prints the completions for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell, output: &mut Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "highwater", &mut script);
    output.bytes(&script)
}

/// Prints the manual page, or writes one for each command into `dir`.
pub(crate) fn man(dir: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return output.bytes(&page);
    };
    clap_mangen::generate_to(Cli::command(), dir).map_err(|e| {
        Failure::failed(format!("cannot write manual pages into {}: {e}", dir.display()))
    })
}
