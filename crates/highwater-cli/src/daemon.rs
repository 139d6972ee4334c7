//! `highwater run`: the daemon, in the foreground, from its lock to its last answer.
//!
//! It starts in an order in which nothing is promised that does not hold yet: the lock, the
//! configuration, the engine, the two doors (HTTP and the control socket), and only then the line
//! that says it is ready. It stops the other way round. The first signal drains, the second one
//! ends it at once; either way the next start goes on from what is durable.

use std::net::SocketAddr;
use std::time::Duration;

use highwater::Engine;
use highwater::config::Config;
use highwater::control::{self, ControlServer};
use highwater::home::{Home, Identity};
use highwater_core::NodeId;
use highwater_web::WebServer;
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::allocator;
use crate::failure::Failure;
use crate::output::Output;

/// Threads that run tasks. The work is disk, network and hashing, which have threads of their own.
const WORKER_THREADS: usize = 2;
/// Threads for calls that block: each costs memory, and more of them only queue at the disk.
const BLOCKING_THREADS_MAX: usize = 8;
/// What draining may take; the contract says five seconds for all of it.
const ENGINE_DRAIN_WAIT: Duration = Duration::from_millis(3500);
/// What all of stopping may take, the two doors included.
const STOP_WAIT: Duration = Duration::from_millis(4500);
/// What is left for threads in blocking calls when everything else has ended.
const THREADS_WAIT: Duration = Duration::from_millis(250);
/// Memory is given back once nothing has happened for this long.
const QUIET: Duration = Duration::from_secs(3);
/// The exit code of a daemon that was ended at once: 128 and the number of SIGINT.
const CUT_SHORT: i32 = 130;

/// Runs the node in `home` until it is told to stop.
pub(crate) fn run(home: &Home, output: &mut Output) -> Result<(), Failure> {
    let _lock = home.lock()?;
    let config = Config::load(&home.config_path())?;
    let own_id = Identity::load(&home.identity_dir())?.node_id();
    config.check_against(home.dir(), &own_id)?;
    let began = Instant::now();
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("highwater")
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start threads for the daemon: {e}")))?;
    let ended = runtime.block_on(serve(home, config, began, output));
    runtime.shutdown_timeout(THREADS_WAIT);
    ended
}

async fn serve(
    home: &Home,
    config: Config,
    began: Instant,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let http = config.listen.http;
    let engine = tokio::select! {
        started = Engine::start(home.clone(), config, began) => started.map_err(Failure::failed)?,
        () = signals.stop() => return Ok(()),
    };
    let doors = match Doors::open(home, &engine, http).await {
        Ok(doors) => doors,
        Err(failure) => {
            engine.stop(ENGINE_DRAIN_WAIT).await;
            return Err(failure);
        }
    };
    say_ready(&engine, doors.http, output);
    allocator::keep_buffers();
    let trimming = tokio::spawn(give_memory_back(engine.changes()));
    doors.serve_until_stopped(home, &engine, &mut signals).await;
    trimming.abort();
    info!("stopping");
    let stopped = async {
        doors.close().await;
        engine.stop(ENGINE_DRAIN_WAIT).await;
    };
    tokio::select! {
        finished = tokio::time::timeout(STOP_WAIT, stopped) => {
            if finished.is_err() {
                warn!("not everything ended in time; the next start goes on from what is durable");
            }
        }
        () = signals.stop() => std::process::exit(CUT_SHORT),
    }
    Ok(())
}

/// After work has ended, what it needed goes back to the system; starting is work too, and may have told
/// all its changes before anybody listens.
async fn give_memory_back(mut changes: watch::Receiver<u64>) {
    loop {
        while let Ok(Ok(())) = tokio::time::timeout(QUIET, changes.changed()).await {}
        // It cannot panic; when the runtime ends first, the memory goes back anyway.
        let _ = tokio::task::spawn_blocking(allocator::trim).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The ways in for people and programs.
struct Doors {
    http: SocketAddr,
    web: WebServer,
    control: ControlServer,
}

impl Doors {
    async fn open(home: &Home, engine: &Engine, http: SocketAddr) -> Result<Self, Failure> {
        let (web, http) =
            highwater_web::serve(engine.clone(), http).await.map_err(Failure::failed)?;
        let control = ControlServer::start(home, engine.clone())?;
        Ok(Self { http, web, control })
    }

    async fn serve_until_stopped(&self, home: &Home, engine: &Engine, signals: &mut Signals) {
        loop {
            let told = tokio::select! {
                told = signals.next() => told,
                () = self.control.stop_requested() => Told::Stop,
            };
            match told {
                Told::Stop => return,
                Told::Reload => match control::reload(home, engine).await {
                    Ok(()) => info!("the configuration was read again"),
                    Err(e) => error!("{e}"),
                },
            }
        }
    }

    async fn close(self) {
        tokio::join!(self.control.shutdown(), self.web.shutdown());
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Stop,
    Reload,
}

/// The signals that a daemon listens to, from before there is anything to lose.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("cannot listen for signals: {e}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Waits for the word to stop. Before and after the daemon serves there is nothing to reload.
    async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}

/// The line that tells a supervisor that the node serves.
#[derive(Serialize)]
struct Ready {
    event: &'static str,
    node_id: String,
    sync: SocketAddr,
    http: SocketAddr,
}

fn say_ready(engine: &Engine, http: SocketAddr, output: &mut Output) {
    let node_id: NodeId = engine.node_id();
    let ready =
        Ready { event: "ready", node_id: node_id.to_string(), sync: engine.sync_addr(), http };
    info!(sync = %ready.sync, %http, "node {node_id} is ready");
    // A supervisor that does not read the line still has its daemon.
    if output.json(&ready).and_then(|()| output.finish()).is_err() {
        warn!("nobody reads standard output; the ready line was lost");
    }
}
