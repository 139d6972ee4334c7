//! An ear at every node: its events, as they are told, with the moment at which each was heard here.
//!
//! Nobody is asked over and over while something is measured: a node says once, over a connection
//! that is open already, that a member is in another state. A node that has told more events than an
//! ear took in says so, and the run is worth nothing then.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::crowd::Crowd;

/// Longest silence of a node that has nothing to say: it says that it lives every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// What an ear needs of stack: it reads lines.
const STACK_BYTES: usize = 128 * 1024;

/// What a node said of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Called {
    /// It works.
    Active,
    /// It may have failed.
    Suspect,
    /// It has failed.
    Failed,
    /// It was removed.
    Left,
}

#[derive(Deserialize)]
struct Told {
    event: String,
    #[serde(default)]
    node_id: String,
    to: Option<Called>,
}

#[derive(Debug)]
enum Word {
    Called { by: usize, about: String, to: Called, at: Instant },
    Missed { by: usize },
}

/// When each of the living called each of the dead what: the first time.
pub(crate) type Calls = BTreeMap<(usize, usize, Called), Instant>;

/// All ears.
#[derive(Debug)]
pub(crate) struct Ears {
    words: Receiver<Word>,
    threads: Vec<JoinHandle<()>>,
    numbers: BTreeMap<String, usize>,
    /// Those who were killed: whatever is said of them is no mistake.
    dead: BTreeSet<usize>,
    calls: Calls,
    false_suspicions: u64,
    false_failures: u64,
}

impl Ears {
    /// An ear at every node that runs.
    pub(crate) fn at(crowd: &Crowd) -> Result<Self> {
        let (sender, words) = mpsc::channel();
        let mut threads = Vec::new();
        for (number, node) in crowd.running() {
            let addr = node.spec().http;
            let stream = follow(addr).with_context(|| format!("following the events of {addr}"))?;
            let sender = sender.clone();
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            threads.push(thread.spawn(move || listen(number, stream, &sender))?);
        }
        let nodes = crowd.nodes().iter().enumerate();
        let numbers = nodes.map(|(number, node)| (node.id().to_owned(), number)).collect();
        Ok(Self {
            words,
            threads,
            numbers,
            dead: BTreeSet::new(),
            calls: Calls::new(),
            false_suspicions: 0,
            false_failures: 0,
        })
    }

    /// From now on these are dead.
    pub(crate) fn bury(&mut self, numbers: &[usize]) {
        self.dead.extend(numbers);
    }

    /// Takes in what is said for so long.
    pub(crate) fn listen_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        self.listen_until(until, |_| false)
    }

    /// Takes in what is said until `until`, or until what was said of the dead is `enough`.
    pub(crate) fn listen_until(
        &mut self,
        until: Instant,
        enough: impl Fn(&Calls) -> bool,
    ) -> Result<()> {
        while !enough(&self.calls) {
            let left = until.saturating_duration_since(Instant::now());
            match self.words.recv_timeout(left) {
                Ok(word) => self.take_in(word)?,
                Err(_) if left.is_zero() => return Ok(()),
                // All nodes have ended: nobody says anything any more.
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    thread::sleep(left);
                    return Ok(());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(())
    }

    fn take_in(&mut self, word: Word) -> Result<()> {
        let (by, about, to, at) = match word {
            Word::Called { by, about, to, at } => (by, about, to, at),
            Word::Missed { by } => bail!("node {by} said more than was heard; nothing is known"),
        };
        let Some(&about) = self.numbers.get(&about) else { return Ok(()) };
        if self.dead.contains(&about) {
            self.calls.entry((by, about, to)).or_insert(at);
        } else if !self.dead.contains(&by) {
            let wrong = match to {
                Called::Suspect => &mut self.false_suspicions,
                Called::Failed => &mut self.false_failures,
                Called::Active | Called::Left => return Ok(()),
            };
            *wrong += 1;
            eprintln!("node {by} falsely says that node {about} is {to:?}");
        }
        Ok(())
    }

    /// What was said of the dead.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// How often a living node was called suspect, and how often failed.
    pub(crate) fn false_words(&self) -> (u64, u64) {
        (self.false_suspicions, self.false_failures)
    }

    /// Ends all ears, once their nodes have ended.
    pub(crate) fn close(&mut self) {
        for thread in self.threads.drain(..) {
            // An ear cannot panic; one that did has nothing more to say.
            let _ = thread.join();
        }
    }
}

fn follow(addr: SocketAddr) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&addr, SILENCE_MAX)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let head = format!("GET /api/v1/events HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.contains(" 200 ") {
        bail!("it answered {line:?}");
    }
    Ok(reader)
}

/// Reads the events of one node until it ends.
fn listen(by: usize, stream: BufReader<TcpStream>, words: &Sender<Word>) {
    for line in stream.lines().map_while(std::result::Result::ok) {
        let at = Instant::now();
        if line == "event: missed" {
            let _ = words.send(Word::Missed { by });
        }
        let data = line.strip_prefix("data: ").and_then(|data| serde_json::from_str(data).ok());
        if let Some(Told { event, node_id: about, to: Some(to) }) = data
            && event == "member"
        {
            // Nobody listens any more once the run has ended.
            let _ = words.send(Word::Called { by, about, to, at });
        }
    }
}
