//! The application at one end of one link: two streams out, two streams in. Everything says who said
//! it, on which link and as the how many-th; contents are made of that and can be made again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_core::wire::{Content, Control, Reply, RequestId, Standing};
use highwater_core::{Epoch, Seq, ShareName};
use highwater_lab::dice::Dice;
use highwater_net::Link;
use tokio::sync::{mpsc, watch};

use crate::node::{Node, Orders};
use crate::record::{EndId, Record, Stream};

/// What one end says and hears.
#[derive(Clone)]
pub(crate) struct Talk {
    end: EndId,
    pause_ms: u64,
    bytes_max: u64,
    orders: watch::Receiver<Orders>,
    record: Record,
}

impl Talk {
    pub(crate) fn new(end: EndId, node: &Arc<Node>, orders: watch::Receiver<Orders>) -> Self {
        let (pause_ms, bytes_max, record) = (node.pause_ms, node.bytes_max, node.record.clone());
        Self { end, pause_ms, bytes_max, orders, record }
    }

    /// Talks until the link has ended in both streams.
    pub(crate) async fn run(self, link: Link) {
        let Link { control, content, control_in, content_in, .. } = link;
        let heard = async {
            tokio::join!(
                self.clone().hear_control(control_in),
                self.clone().hear_content(content_in)
            )
        };
        let said = async {
            tokio::join!(self.clone().say_control(control), self.clone().say_content(content));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = heard => {}
            () = said => {}
        }
    }

    async fn say_control(mut self, out: mpsc::Sender<Control>) {
        let share: ShareName = "docs".parse().expect("a share's name");
        let mut dice = self.dice(1);
        for number in 0.. {
            self.pause(&mut dice).await;
            let Ok(permit) = out.reserve().await else { return };
            let epoch = Epoch(self.end.to_bytes());
            self.record.sent(self.end, Stream::Control, 0);
            permit.send(Control::Standing(Standing {
                share: share.clone(),
                epoch,
                head: Seq(number),
                needed_entries: number,
                needed_bytes: 0,
            }));
        }
    }

    async fn say_content(mut self, out: mpsc::Sender<Content>) {
        let mut dice = self.dice(2);
        for number in 0.. {
            self.pause(&mut dice).await;
            let Ok(permit) = out.reserve().await else { return };
            let data = content(self.end, number, self.bytes_max);
            self.record.sent(self.end, Stream::Content, data.len() as u64);
            permit.send(Content::Reply { id: RequestId(number), reply: Reply::Bytes(data) });
        }
    }

    async fn hear_control(self, mut control_in: mpsc::Receiver<Control>) {
        while let Some(message) = control_in.recv().await {
            match message {
                Control::Standing(said) if said.needed_entries == said.head.0 => {
                    let from = EndId::from_bytes(said.epoch.0);
                    self.record.received(self.end, Stream::Control, from, said.head.0, 0);
                }
                other => self.record.violation(format!("{:?} heard {other:?}", self.end)),
            }
        }
    }

    async fn hear_content(mut self, mut content_in: mpsc::Receiver<Content>) {
        loop {
            // A world that is gone stalls nobody.
            let _ = self.orders.wait_for(|orders| !orders.stalled || orders.stop).await;
            let Some(message) = content_in.recv().await else { return };
            let Content::Reply { id: RequestId(number), reply: Reply::Bytes(data) } = message
            else {
                self.record.violation(format!("{:?} heard something else", self.end));
                continue;
            };
            let mut from = [0; 16];
            from.copy_from_slice(&data[..16]);
            let from = EndId::from_bytes(from);
            if data != content(from, number, self.bytes_max) {
                self.record.violation(format!("{:?} heard falsified content {number}", self.end));
            }
            self.record.received(self.end, Stream::Content, from, number, data.len() as u64);
        }
    }

    async fn pause(&mut self, dice: &mut Dice) {
        tokio::time::sleep(Duration::from_millis(dice.between(1, self.pause_ms))).await;
        // A world that is gone hushes nobody.
        let _ = self.orders.wait_for(|orders| !orders.hushed).await;
    }

    fn dice(&self, stream: u64) -> Dice {
        seeded(self.end, stream)
    }
}

fn seeded(end: EndId, number: u64) -> Dice {
    let EndId { node, run, serial } = end;
    let seed = u64::from(node) << 40 | u64::from(run) << 32 | u64::from(serial) << 16;
    Dice::new(seed ^ number.wrapping_mul(0x9e37_79b9))
}

/// The content with this number on the link whose speaking end is `end`.
fn content(end: EndId, number: u64, bytes_max: u64) -> Bytes {
    let mut dice = seeded(end, number);
    let length = dice.between(32, bytes_max) as usize;
    let mut bytes = dice.bytes(length);
    bytes[..16].copy_from_slice(&end.to_bytes());
    bytes.into()
}
