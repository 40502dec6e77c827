//! The prompt cache: which prefixes were seen, and until when each is kept. In memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ring::digest;
use serde_json::Value;

use super::error::ApiError;
use crate::answer::tokens;

/// Blocks before a breakpoint that a hit is looked for at.
const LOOK_BACK: usize = 20;
/// Most breakpoints of a request.
const MOST_BREAKPOINTS: usize = 4;

/// How long an entry is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ttl {
    FiveMinutes,
    OneHour,
}

impl Ttl {
    /// Reads a `cache_control`; `place` is its dotted path.
    pub(super) fn read(control: &Value, place: &str) -> Result<Self, ApiError> {
        if control["type"] != "ephemeral" {
            return Err(ApiError::invalid(format!(
                "{place}.cache_control.type: Input should be 'ephemeral'"
            )));
        }
        match control.get("ttl").map_or(Some("5m"), Value::as_str) {
            Some("5m") => Ok(Self::FiveMinutes),
            Some("1h") => Ok(Self::OneHour),
            _ => Err(ApiError::invalid(format!(
                "{place}.cache_control.ttl: Input should be '5m' or '1h'"
            ))),
        }
    }

    fn ms(self) -> i64 {
        match self {
            Self::FiveMinutes => 300_000,
            Self::OneHour => 3_600_000,
        }
    }
}

/// One block of a prompt: tools, system, messages, in this order.
#[derive(Debug)]
pub(super) struct Block {
    /// What makes it the same block.
    pub(super) content: String,
    /// Bytes that count as tokens.
    pub(super) bytes: usize,
    pub(super) breakpoint: Option<Ttl>,
}

/// How a prompt's tokens were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) read: u64,
    pub(super) write_5m: u64,
    pub(super) write_1h: u64,
}

/// Refuses breakpoints that the vendor refuses.
pub(super) fn check(blocks: &[Block]) -> Result<(), ApiError> {
    let breakpoints: Vec<Ttl> = blocks.iter().filter_map(|block| block.breakpoint).collect();
    if breakpoints.len() > MOST_BREAKPOINTS {
        return Err(ApiError::invalid(format!(
            "A maximum of 4 blocks with cache_control may be provided. Found {}.",
            breakpoints.len()
        )));
    }
    let late = breakpoints
        .windows(2)
        .any(|pair| pair == [Ttl::FiveMinutes, Ttl::OneHour]);
    if late {
        return Err(ApiError::invalid(
            "cache_control: a ttl='1h' block must not come after a ttl='5m' block",
        ));
    }
    Ok(())
}

/// Every prefix that is kept, per key and model.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<HashMap<[u8; 32], i64>>);

/// Entries from which on those that ran out are swept.
const SWEEP: usize = 100_000;

impl Cache {
    /// Reads a prompt through the cache at an instant, and keeps what it asks to keep.
    pub(super) fn read(
        &self,
        owner: &str,
        blocks: &[Block],
        min_tokens: u64,
        now_ms: i64,
    ) -> Split {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(owner.as_bytes());
        let mut bytes = 0;
        let prefixes: Vec<([u8; 32], u64)> = blocks
            .iter()
            .map(|block| {
                hash.update(&(block.content.len() as u64).to_be_bytes());
                hash.update(block.content.as_bytes());
                bytes += block.bytes;
                let digest = hash.clone().finish();
                let name = digest.as_ref().try_into().expect("a SHA-256 has 32 bytes");
                (name, tokens(bytes))
            })
            .collect();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() > SWEEP {
            kept.retain(|_, until| now_ms < *until);
        }
        let marked = || {
            let long = |at: usize| prefixes[at].1 >= min_tokens;
            let marks = blocks.iter().enumerate().filter(move |(at, _)| long(*at));
            marks.filter_map(|(at, block)| Some((at, block.breakpoint?)))
        };
        let mut split = Split::default();
        for (at, _) in marked() {
            let near = &prefixes[at.saturating_sub(LOOK_BACK)..=at];
            let hit = near
                .iter()
                .rev()
                .find(|(name, _)| kept.get(name).is_some_and(|until| now_ms < *until));
            split.read = split.read.max(hit.map_or(0, |(_, tokens)| *tokens));
        }
        // Only now, so that a request does not read what it writes itself.
        let mut done = split.read;
        for (at, ttl) in marked() {
            let (name, long) = prefixes[at];
            let fresh = long.saturating_sub(done);
            match ttl {
                Ttl::FiveMinutes => split.write_5m += fresh,
                Ttl::OneHour => split.write_1h += fresh,
            }
            done = done.max(long);
            let until = kept.entry(name).or_default();
            *until = (*until).max(now_ms.saturating_add(ttl.ms()));
        }
        split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(content: &str, breakpoint: Option<Ttl>) -> Block {
        Block {
            content: content.to_owned(),
            bytes: content.len(),
            breakpoint,
        }
    }

    #[test]
    fn a_prefix_is_written_once_and_read_until_it_runs_out() {
        let cache = Cache::default();
        let system = "s".repeat(4_096);
        let prompt = |question: &str| {
            [
                block(&system, Some(Ttl::FiveMinutes)),
                block(question, None),
            ]
        };
        let split = |read, write_5m| Split {
            read,
            write_5m,
            write_1h: 0,
        };
        assert_eq!(cache.read("k", &prompt("a"), 1_024, 0), split(0, 1_024));
        assert_eq!(cache.read("k", &prompt("b"), 1_024, 1), split(1_024, 0));
        assert_eq!(cache.read("other", &prompt("b"), 1_024, 1), split(0, 1_024));
        assert_eq!(
            cache.read("k", &prompt("c"), 1_024, 400_000),
            split(0, 1_024)
        );
        assert_eq!(cache.read("k", &prompt("c"), 1_025, 400_001), split(0, 0));
    }

    #[test]
    fn a_later_breakpoint_writes_only_what_is_new() {
        let cache = Cache::default();
        let (one, two) = ("a".repeat(400), "b".repeat(400));
        let blocks = [
            block(&one, Some(Ttl::OneHour)),
            block(&two, Some(Ttl::FiveMinutes)),
        ];
        let first = cache.read("k", &blocks, 100, 0);
        assert_eq!((first.write_1h, first.write_5m, first.read), (100, 100, 0));
        let mut longer = blocks.into_iter().collect::<Vec<_>>();
        longer[1].breakpoint = None;
        longer.push(block(&one, Some(Ttl::FiveMinutes)));
        // The breakpoint two blocks back is found.
        let second = cache.read("k", &longer, 100, 1);
        assert_eq!((second.read, second.write_5m), (200, 100));
    }

    #[test]
    fn too_many_breakpoints_and_a_late_hour_are_refused() {
        let five: Vec<Block> = (0..5).map(|_| block("x", Some(Ttl::OneHour))).collect();
        assert!(check(&five).is_err() && check(&five[..4]).is_ok());
        let late = [
            block("x", Some(Ttl::FiveMinutes)),
            block("y", Some(Ttl::OneHour)),
        ];
        assert!(check(&late).is_err());
    }
}
