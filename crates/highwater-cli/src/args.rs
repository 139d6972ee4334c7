//! What can be typed.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use highwater::config::{HTTP_ADDR_DEFAULT, SYNC_ADDR_DEFAULT, ShareMode, parse_wait};
use highwater::tokens::Scope;
use highwater_core::{NodeId, ShareName};

/// Keeps folders identical on several machines, and goes on where a broken transfer stopped.
#[derive(Parser, Debug)]
#[command(name = "highwater", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, \
3 a check found differences, 4 the daemon is not reachable.")]
pub(crate) struct Cli {
    /// The node's home: configuration, identity, store, control socket [default: the platform's
    /// data directory]
    #[arg(long, global = true, env = "HIGHWATER_HOME", value_name = "DIR")]
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document (streams: one JSON object a line)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) logs: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Log more; twice: everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log less; twice: errors only
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    pub(crate) quiet: u8,
    /// How log lines look; they go to stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a node: its home, identity and configuration
    Init(InitArgs),
    /// Print the node id
    Id,
    /// Run the daemon in the foreground
    Run,
    /// Manage shared folders
    #[command(subcommand)]
    Share(ShareCommand),
    /// Manage the nodes that folders are exchanged with
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Show what is in sync, what is needed, which transfers run and what is wrong
    Status {
        /// Only this share
        share: Option<ShareName>,
    },
    /// Show the contents in flight
    Transfers {
        /// Go on as they change
        #[arg(short, long)]
        follow: bool,
    },
    /// Show the change log of a share
    Log {
        /// Which share
        share: ShareName,
        /// Only changes behind this sequence number
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        since: u64,
        /// Go on as changes are made
        #[arg(short, long)]
        follow: bool,
    },
    /// List the preserved losing versions
    Conflicts {
        /// Only of this share
        share: Option<ShareName>,
    },
    /// Print the BLAKE3 hash of files, as b3sum does
    Hash {
        /// Which files
        #[arg(required_unless_present = "share", value_hint = ValueHint::FilePath)]
        paths: Vec<PathBuf>,
        /// The root hash of this share
        #[arg(long, conflicts_with = "paths")]
        share: Option<ShareName>,
    },
    /// Watch three nodes on this machine sync, lose the link, and resume
    Demo {
        /// Leave the nodes running
        #[arg(long)]
        keep: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write the pages of all commands into this directory instead
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
    /// Not available in this version: pair two nodes with a code
    Invite(Later),
    /// Not available in this version: pair two nodes with a code
    Join(Later),
    /// Are all copies of a share the same, and if not, what differs, why, and who is right?
    Check(CheckArgs),
    /// Show how good the lines to the peers are
    #[command(args_conflicts_with_subcommands = true)]
    Net(NetArgs),
    /// Show the cluster as this node sees it, and remove departed nodes
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Show firing and recent alerts
    Alerts,
    /// Manage access to the HTTP API beyond this machine
    #[command(subcommand)]
    Token(TokenCommand),
    /// Run a development cluster: some nodes on this machine that live on
    #[command(subcommand)]
    Dev(DevCommand),
}

/// The arguments of a command that this version does not have: whatever they are, the answer is
/// the same.
#[derive(Args, Debug)]
pub(crate) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The node's name [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Whose data it keeps [default: you]
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Where other nodes reach it; port 0 takes any
    #[arg(long, value_name = "ADDR", default_value_t = SYNC_ADDR_DEFAULT)]
    pub(crate) sync: SocketAddr,
    /// Where its HTTP API listens; port 0 takes any
    #[arg(long, value_name = "ADDR", default_value_t = HTTP_ADDR_DEFAULT)]
    pub(crate) http: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Which share [default: all]
    pub(crate) share: Option<ShareName>,
    /// Compare with this peer only; may be given several times
    #[arg(long = "peer", value_name = "NODE")]
    pub(crate) peers: Vec<String>,
    /// First read every byte again on every node, and compare it with what is on record
    #[arg(long)]
    pub(crate) deep: bool,
    /// With --deep: read from the disk, not from what the system has cached
    #[arg(long, requires = "deep")]
    pub(crate) from_disk: bool,
    /// Mend what is proved to be wrong
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair: only say what would be mended
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ShareCommand {
    /// Share a folder
    Add {
        /// Its name, the same on every node
        name: ShareName,
        /// Where it lies; made if its parent exists
        #[arg(value_hint = ValueHint::DirPath)]
        path: PathBuf,
        /// send-receive, send-only or receive-only
        #[arg(long, default_value_t = ShareMode::SendReceive)]
        mode: ShareMode,
    },
    /// List the shared folders
    List,
    /// Stop sharing a folder; its files are not touched
    Remove {
        /// Which share
        name: ShareName,
    },
    /// Stop a share until it is resumed
    Pause {
        /// Which share
        name: ShareName,
    },
    /// Go on with a paused share
    Resume {
        /// Which share
        name: ShareName,
    },
    /// Let a mass delete that is held back go out
    Confirm {
        /// Which share
        name: ShareName,
    },
    /// Fetch the files of a mass delete that is held back again
    Revert {
        /// Which share
        name: ShareName,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, once
    Create {
        /// What it allows: read or admin
        #[arg(long)]
        scope: Scope,
        /// How long it is good for, such as 30d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
        expires: Option<Duration>,
    },
    /// List the tokens; what they are made of is not kept
    List,
    /// Make a token worthless, at once
    Revoke {
        /// Which token, by its id
        id: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum DevCommand {
    /// Make the cluster, start what does not run of it, and wait until every node sees the others
    Up {
        /// How many nodes [default: 3, or as many as there are]
        #[arg(short, long, value_name = "N")]
        nodes: Option<usize>,
        /// What they share; may be given several times [default: docs]
        #[arg(long = "share", value_name = "SHARE")]
        shares: Vec<ShareName>,
        /// The first node's HTTP port; the others' follow a hundred apart [default: 8080]
        #[arg(long, value_name = "PORT")]
        http: Option<u16>,
        /// The first node's sync port; the others' follow a hundred apart [default: 7420]
        #[arg(long, value_name = "PORT")]
        sync: Option<u16>,
        #[command(flatten)]
        place: DevPlace,
    },
    /// Show all nodes in one table
    Status {
        #[command(flatten)]
        place: DevPlace,
    },
    /// Stop all nodes, by their recorded processes
    Down {
        /// Remove the cluster's directory, with the nodes' homes and folders
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        place: DevPlace,
    },
    /// Cut a real transfer on the running cluster for ten seconds, and judge what comes of it
    FaultTest {
        #[command(flatten)]
        place: DevPlace,
    },
}

/// Where a development cluster lies.
#[derive(Args, Debug)]
pub(crate) struct DevPlace {
    /// The cluster's directory [default: highwater-dev in the platform's data directory]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum PeerCommand {
    /// Add a node, or what is new about one that is known
    Add {
        /// What `highwater id` prints there
        #[arg(value_name = "NODE_ID")]
        id: NodeId,
        /// Where to dial it, HOST:PORT; without it this node waits to be dialled
        addr: Option<String>,
        /// What to call it
        #[arg(long)]
        name: Option<String>,
        /// Exchange this share with it; may be given several times
        #[arg(long = "share", value_name = "SHARE")]
        shares: Vec<ShareName>,
    },
    /// List the known nodes
    List,
    /// Forget a node
    Remove {
        /// Which node
        #[arg(value_name = "NODE_ID")]
        id: NodeId,
    },
}

#[derive(Args, Debug)]
pub(crate) struct NetArgs {
    /// Only this peer, with its last day: its id, or its name here
    pub(crate) node: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<NetCommand>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NetCommand {
    /// Measure the line to a peer for a few seconds, while no content is sent
    Test {
        /// Which peer: its id, or its name here
        node: String,
        /// Send only so many pings, and move no bytes
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
        pings: Option<u32>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Show the cluster in figures
    Status,
    /// List its nodes
    Nodes,
    /// Remove a node that has failed, for good and everywhere; `peer add` lets it in again
    Remove {
        /// Which node
        #[arg(value_name = "NODE_ID")]
        id: NodeId,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_is_understood() {
        let id = NodeId::from_bytes([7; 32]).to_string();
        let rows = [
            "init --name N --user U --sync 127.0.0.1:0 --http 127.0.0.1:0",
            "id",
            "run --log-format json -v",
            "share add docs /d --mode send-only",
            "share list",
            "share remove docs",
            "share pause docs",
            "share resume docs",
            "share confirm docs",
            "share revert docs",
            "peer add ID 192.0.2.7:7420 --name bob --share a --share b",
            "peer list --json",
            "peer remove ID",
            "invite docs --ttl 10m",
            "join CODE /p",
            "status docs --json",
            "transfers --follow",
            "log docs --since 5 --follow",
            "conflicts docs",
            "check docs --peer ID --deep --repair",
            "check --deep --from-disk --repair --dry-run",
            "hash a b",
            "hash --share docs",
            "net test ID",
            "net",
            "net bob",
            "cluster status",
            "cluster nodes --json",
            "cluster remove ID",
            "alerts",
            "token create --scope read --expires 30d",
            "token list",
            "token revoke 0123abcd",
            "demo --json --keep",
            "dev up -n 3 --dir /d --share a --share b --http 9080 --sync 9420",
            "dev status --json",
            "dev down --purge",
            "dev fault-test --dir /d",
            "completions bash",
            "man",
        ];
        for row in rows {
            let row = format!("highwater --home /h {row}").replace("ID", &id);
            let parsed = Cli::try_parse_from(row.split(' '));
            assert!(parsed.is_ok(), "{row}: {}", parsed.expect_err("refused"));
        }
    }
}
