//! Commands about the cluster: `cluster status`, `cluster nodes` and `cluster remove`.

use highwater::Home;
use highwater::control::{Client, Request};
use highwater::report::cluster::{ClusterNode, ClusterNodes, ClusterStatus};
use serde_json::json;

use crate::args::ClusterCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::show::print;
use crate::text::{escaped, table};

/// Runs one of them.
pub(crate) fn cluster(
    home: &Home,
    command: &ClusterCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    let client = Client::new(home);
    match command {
        ClusterCommand::Status => {
            let status: ClusterStatus = client.one(&Request::ClusterStatus)?;
            if output.is_json() { output.json(&status) } else { show_status(&status, output) }
        }
        ClusterCommand::Nodes => {
            let nodes: ClusterNodes = client.one(&Request::ClusterNodes)?;
            if output.is_json() { output.json(&nodes) } else { show_nodes(&nodes, output) }
        }
        ClusterCommand::Remove { id } => {
            client.order(&Request::ClusterRemove { node: *id })?;
            if output.is_json() {
                output.json(&json!({"removed": id.to_string()}))
            } else {
                output.line(format_args!("{id} is removed from the cluster"))
            }
        }
    }
}

fn show_status(status: &ClusterStatus, output: &mut Output) -> Result<(), Failure> {
    let figures = &status.status;
    output.heading(format_args!("cluster {}", escaped(&figures.cluster_id)))?;
    if !status.enabled {
        output.line("This node lists no other for a share; `highwater peer add` does.")?;
    }
    output.line(format_args!(
        "{} nodes: {} active, {} suspect, {} failed",
        figures.total_nodes, figures.active_nodes, figures.suspect_nodes, figures.failed_nodes
    ))?;
    output.line(format_args!(
        "{} requests answered, {} of them not as asked, in {:.1} ms on average",
        figures.total_requests, figures.failed_requests, figures.average_response_time
    ))
}

fn show_nodes(nodes: &ClusterNodes, output: &mut Output) -> Result<(), Failure> {
    let rows: Vec<[String; 9]> = nodes.nodes.values().map(row).collect();
    let headings =
        ["NAME", "USER", "STATE", "HTTP", "LINKS", "ANSWERS IN", "LAST SEEN", "VERSION", "NODE"];
    print(output, table(headings, &rows))
}

fn row(node: &ClusterNode) -> [String; 9] {
    let config = &node.config;
    [
        escaped(&config.metadata.name),
        escaped(&config.metadata.user),
        config.status.to_string(),
        format!("{}:{}", escaped(&config.host), config.port),
        node.connections.to_string(),
        format!("{:.1} ms", node.response_time),
        escaped(&node.last_seen),
        escaped(&config.metadata.version),
        config.node_id.to_string(),
    ]
}
