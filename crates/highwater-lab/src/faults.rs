//! What can go wrong between two nodes: the words of the fault proxy.
//!
//! A link has two directions, and each has its own [`Faults`]: how late, how fast, in what pieces
//! and how faithfully bytes arrive. What ends a link as a whole is a [`CutKind`]. All of these are
//! plain values that a script can write as JSON; the proxy carries them out.
//!
//! A user-space proxy cannot make a SYN vanish. A silent link therefore either lets new
//! connections open and hears nothing from them, or refuses them: see [`Newcomers`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One way through a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the node that dialled to the one that listens.
    Forward,
    /// From the node that listens to the one that dialled.
    Backward,
}

impl Direction {
    /// Both, for whatever is done to each.
    pub const BOTH: [Direction; 2] = [Direction::Forward, Direction::Backward];

    /// This direction's place in a pair.
    pub(crate) const fn index(self) -> usize {
        match self {
            Direction::Forward => 0,
            Direction::Backward => 1,
        }
    }
}

/// How a link ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutKind {
    /// Nothing passes any more and nobody is told: the sockets stay open.
    Silent,
    /// Both ends get a reset, and new connections are refused.
    Reset,
    /// Both ends see an orderly end of stream, and new connections are refused.
    Close,
}

/// What becomes of connections that are opened while a link is silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Newcomers {
    /// They open, and hear nothing until the link is healed.
    #[default]
    Held,
    /// They are refused.
    Refused,
}

/// What becomes of the connections that a silent cut left open when the link is healed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survivors {
    /// They go on with the byte after the last, as TCP does over a line that came back.
    #[default]
    Resume,
    /// They are reset, as by a router that has forgotten them.
    Reset,
}

/// How often a byte is falsified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flip {
    /// Never.
    #[default]
    Never,
    /// The next byte, and no other until this is set again.
    Once,
    /// One byte in so many; 0 counts as 1.
    Every(u64),
}

/// What happens to the bytes of one direction. The default is a perfect line.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// How much later each byte arrives.
    pub delay_ms: u64,
    /// Most bytes a second; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// Nothing passes while this is set.
    pub frozen: bool,
    /// What ends the connection once it has carried so many more bytes in this direction.
    pub end_after: Option<EndAfter>,
    /// How often a byte is falsified.
    pub flip: Flip,
    /// Whether every byte is written on its own.
    pub one_byte_slices: bool,
}

impl Faults {
    /// A line of so many bytes a second.
    pub fn rate(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: Some(bytes_per_second), ..Self::default() }
    }

    /// A line that delivers so much later.
    pub fn delay(delay: Duration) -> Self {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self { delay_ms, ..Self::default() }
    }

    /// A line that carries nothing.
    pub fn frozen() -> Self {
        Self { frozen: true, ..Self::default() }
    }
}

/// The end of a connection at an exact byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndAfter {
    /// How many more bytes each connection carries in this direction.
    pub bytes: u64,
    /// What happens then. `Silent` freezes this direction of that connection for good.
    pub kind: CutKind,
    /// Whether to go on to the end of the TLS record that the byte lies in.
    #[serde(default)]
    pub at_record: bool,
}

/// Where a stream is within its TLS records: a header of five bytes that ends with the length of the
/// body. It has to see the stream from its first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Records {
    header: [u8; Records::HEADER_BYTES],
    /// Bytes of the header that have passed; 0 between two records.
    headed: usize,
    body_left: u64,
}

impl Records {
    const HEADER_BYTES: usize = 5;

    /// Notes what passes.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = if self.headed < Self::HEADER_BYTES {
                let taken = bytes.len().min(Self::HEADER_BYTES - self.headed);
                self.header[self.headed..self.headed + taken].copy_from_slice(&bytes[..taken]);
                self.headed += taken;
                let [.., high, low] = self.header;
                self.body_left = u64::from(u16::from_be_bytes([high, low]));
                taken
            } else {
                let taken = bytes.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                self.body_left -= taken as u64;
                taken
            };
            if self.headed == Self::HEADER_BYTES && self.body_left == 0 {
                self.headed = 0;
            }
            bytes = &bytes[taken..];
        }
    }

    /// How many bytes may pass at most before it is known whether a record has ended; 0 between
    /// two records.
    pub(crate) fn to_end(self) -> u64 {
        match self.headed {
            0 => 0,
            Self::HEADER_BYTES => self.body_left,
            headed => (Self::HEADER_BYTES - headed) as u64,
        }
    }
}

/// Longest time for which a bucket saves up unused rate. It bounds the burst after a pause, so that
/// a slow line looks slow from its first byte.
const BURST_MAX: Duration = Duration::from_millis(50);

/// A token bucket that says when a piece may pass. It has no clock of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    /// When everything granted so far has passed, since the caller's beginning of time.
    busy_until: Duration,
}

impl Bucket {
    /// Books `bytes` on a line of `bytes_per_second` and says when the last of them has passed.
    pub(crate) fn book(&mut self, now: Duration, bytes: u64, bytes_per_second: u64) -> Duration {
        let start = self.busy_until.max(now.saturating_sub(BURST_MAX));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.busy_until = start.saturating_add(takes);
        self.busy_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_passes_no_more_than_its_rate_and_one_burst() {
        let mut bucket = Bucket::default();
        let start = Duration::from_secs(10);
        let mut passed = start;
        for _ in 0..100 {
            passed = bucket.book(start, 10_000, 1_000_000);
        }
        assert_eq!(passed, start + Duration::from_secs(1) - BURST_MAX);
    }

    #[test]
    fn a_record_ends_where_its_header_says_however_it_is_cut_up() {
        let stream = [&[23, 3, 3, 0, 4, 1, 2, 3, 4][..], &[23, 3, 3, 1, 0], &[0; 256]].concat();
        for step in [1, 2, 7, 300] {
            let (mut records, mut ends, mut passed) = (Records::default(), Vec::new(), 0);
            while passed < stream.len() {
                let most = usize::try_from(records.to_end()).expect("small");
                let most = if most == 0 { step } else { step.min(most) };
                let until = (passed + most.min(5)).min(stream.len());
                records.pass(&stream[passed..until]);
                passed = until;
                if records.to_end() == 0 {
                    ends.push(passed);
                }
            }
            assert_eq!(ends, [9, 9 + 5 + 256], "{step}");
        }
    }

    #[test]
    fn faults_are_written_as_json_with_only_what_differs() {
        let faults: Faults =
            serde_json::from_str(r#"{"delay_ms":20,"end_after":{"bytes":7,"kind":"reset"}}"#)
                .expect("the example is valid");
        assert_eq!(faults.delay_ms, 20);
        assert_eq!(
            faults.end_after,
            Some(EndAfter { bytes: 7, kind: CutKind::Reset, at_record: false })
        );
        assert!(serde_json::from_str::<Faults>(r#"{"dealy_ms":20}"#).is_err());
    }
}
