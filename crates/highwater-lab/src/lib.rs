//! Breaks: what it takes to run real nodes on one machine, spoil what lies between them, and judge
//! the outcome without asking them.
//!
//! - [`proxy`] and [`faults`]: a link between two nodes that can be delayed, slowed, silenced,
//!   reset, closed at an exact byte or falsified; [`record`] keeps what it did and carried.
//! - [`route`]: a way between two nodes on which segments are really lost.
//! - [`node`] and [`cluster`]: real `highwater` processes, their status, their deaths.
//! - [`tree`] and [`oracle`]: generated folders, and a slow, obvious comparison of what is on disk.
//! - [`simulate`]: campaigns of whole clusters in memory, decided by seeds.
//! - [`mod@merge`]: the core's judgement of concurrent changes, tried by the million.
//! - [`hostile`]: a peer that speaks the protocol wrongly on purpose, byte by byte.
//! - [`fuzz`]: inputs that nobody thought of, for everything that reads what comes from outside.
//! - [`demo`]: the main job on one machine, with a severed link, for the eyes.
//! - [`dev`]: a development cluster of real daemons that live on, and its fault-tolerance test.
//! - [`crash`]: power cuts, deaths and failing disks, and what must hold after them.
//! - [`cuts`]: one transfer after another, cut by the thousand.
//! - [`chaos`]: nodes, clients and a nemesis for hours, with an auditor.
//! - [`scale`]: how many nodes one machine carries, and what each costs.
//! - [`httpbench`]: how fast people are answered while a large transfer runs.
//! - [`mod@bench`]: how fast and how large, beside rsync and Syncthing.
//!
//! Nothing here is used by a node in service; `highwater-cli`, the tests and the benches use it.

#![forbid(unsafe_code)]

pub mod bench;
pub mod chaos;
pub mod checkbench;
pub mod cluster;
pub mod crash;
pub mod cuts;
pub mod damage;
pub mod demo;
pub mod dev;
pub mod dice;
pub mod faults;
pub mod fuzz;
pub mod hostile;
pub mod http;
pub mod httpbench;
pub mod merge;
pub mod net;
pub mod node;
pub mod oracle;
mod pipe;
pub mod proxy;
pub mod record;
pub mod route;
pub mod scale;
pub mod script;
pub mod simulate;
pub mod status;
pub mod tree;
mod void;
