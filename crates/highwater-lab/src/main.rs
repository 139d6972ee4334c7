//! The `highwater-lab` program: the fault proxy and the bench, by hand.

#![forbid(unsafe_code)]

fn main() {}
