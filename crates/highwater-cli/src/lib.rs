//! Asks: the `highwater` command.
//!
//! Every command is a function that writes its answer to an `Output` and returns a `Failure`
//! when there is none; this file only chooses the function. Commands that change the configuration
//! work on the file and then tell a running daemon; commands that ask go to the daemon.

mod allocator;
mod args;
mod ask;
mod bars;
mod check;
mod cluster;
mod daemon;
mod demo;
mod dev;
mod edit;
mod failure;
mod hash;
mod logs;
mod manual;
mod net;
mod output;
mod show;
mod text;
mod token;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Parser;
use highwater::Home;
use highwater::config::Config;

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::output::Output;

/// Does what the command line says, and tells how it ended.
///
/// A program of its own does nothing but call this: the one that is installed, and the one that the
/// tests run, which is built with what they need anyway.
pub fn main() -> ExitCode {
    allocator::tune();
    let json = std::env::args_os().any(|arg| arg == OsStr::new("--json"));
    let mut output = Output::new(json);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() && json => return output.fail(&Failure::usage(&e)),
        // Prints help to stdout and exits 0, or the wrong usage to stderr and exits 2.
        Err(e) => e.exit(),
    };
    match run(cli, &mut output).and_then(|()| output.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

fn run(cli: Cli, output: &mut Output) -> Result<(), Failure> {
    let home = || match &cli.home {
        Some(dir) => Ok(Home::at(dir)),
        None => Home::default_place(),
    };
    if !matches!(cli.command, Command::Run) {
        logs::start(&cli.logs, logs::Level::Warn)?;
    }
    Config::check_environment(std::env::vars_os())?;
    match cli.command {
        Command::Init(args) => edit::init(&home()?, &args, output),
        Command::Id => edit::id(&home()?, output),
        Command::Run => {
            logs::start(&cli.logs, logs::Level::Info)?;
            daemon::run(&home()?, output)
        }
        Command::Share(command) => edit::share(&home()?, command, output),
        Command::Peer(command) => edit::peer(&home()?, command, output),
        Command::Status { share } => ask::status(&home()?, share.as_ref(), output),
        Command::Transfers { follow } => ask::transfers(&home()?, follow, output),
        Command::Log { share, since, follow } => ask::log(&home()?, &share, since, follow, output),
        Command::Conflicts { share } => ask::conflicts(&home()?, share, output),
        Command::Hash { share: Some(share), .. } => check::root(&home()?, share, output),
        Command::Hash { paths, share: None } => hash::hash(&paths, output),
        Command::Demo { keep } => demo::demo(cli.json, keep),
        Command::Completions { shell } => manual::completions(shell, output),
        Command::Man { dir } => manual::man(dir.as_deref(), output),
        Command::Invite(_) => Err(Failure::later("invite")),
        Command::Join(_) => Err(Failure::later("join")),
        Command::Check(args) => check::check(&home()?, &args, output),
        Command::Net(args) => net::net(&home()?, &args, output),
        Command::Cluster(command) => cluster::cluster(&home()?, &command, output),
        Command::Alerts => ask::alerts(&home()?, output),
        Command::Token(command) => token::token(&home()?, command, output),
        Command::Dev(command) => dev::dev(command, output),
    }
}
