//! What a run would take of a client that costs nothing.

use crate::case::{BURST, Case, LATENCY_MS, RATE, draw, latency_ms};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Seconds.
pub(crate) fn seconds(case: Case, seed: u64) -> f64 {
    let latency = LATENCY_MS as f64 / 1e3;
    match case {
        Case::Latency => in_order(seed, case),
        _ if case.is_limited() => (case.rows() - BURST) as f64 / RATE + latency,
        Case::Faults => {
            // Every attempt that must be made, over the slots there are.
            let attempts: u64 = (0..case.rows()).map(|row| attempts(seed, row)).sum();
            attempts as f64 * latency / case.concurrency() as f64
        }
        _ => f64::INFINITY,
    }
}

/// Rows begun in order, each as soon as a slot is free.
fn in_order(seed: u64, case: Case) -> f64 {
    let mut free: BinaryHeap<Reverse<u64>> = (0..case.concurrency()).map(|_| Reverse(0)).collect();
    let mut end = 0;
    for row in 0..case.rows() {
        let Reverse(at) = free.pop().unwrap_or_default();
        let done = at + (latency_ms(seed, row) * 1e3) as u64;
        end = end.max(done);
        free.push(Reverse(done));
    }
    end as f64 / 1e6
}

/// How many calls `row` takes until one is answered.
fn attempts(seed: u64, row: u64) -> u64 {
    (1..)
        .find(|attempt| fault(seed, row, *attempt).is_none())
        .unwrap_or(1)
}

/// How the faulty upstream fails a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Status,
    Reset,
}

pub(crate) fn fault(seed: u64, row: u64, attempt: u64) -> Option<Fault> {
    match draw(seed, row, attempt, 3) {
        one if one < 0.05 => Some(Fault::Status),
        one if one < 0.07 => Some(Fault::Reset),
        _ => None,
    }
}
