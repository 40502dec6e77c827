//! Ids on the wire of a batch: ours, short, and proof of where a result line belongs.

use std::{fmt, str::FromStr};

/// The first part of every wire id of one attempt: 8 of `a-z` and `0-9`, the first a letter, so that no
/// importer takes an id for a number or a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WirePrefix([u8; 8]);

/// A row's id on the wire of a batch: `<prefix>-<row in base 36>`. It obeys the strictest alphabet and
/// length of all vendors (F-176), is unique within a batch whatever the caller's ids are (F-174), and a
/// result line under it proves which attempt and row it belongs to.
///
/// ```
/// use batchwright_core::{WireId, WirePrefix};
/// let prefix = WirePrefix::of("jobname", 3, 1);
/// let id = WireId::new(prefix, 71);
/// assert_eq!(id.to_string().parse::<WireId>()?, id);
/// assert!(id.to_string().ends_with("-1z"));
/// # Ok::<(), batchwright_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireId {
    prefix: WirePrefix,
    row: u64,
}

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl WirePrefix {
    /// The prefix of attempt number `attempt` at `chunk` of `job`: a hash of the three.
    pub fn of(job: &str, chunk: u32, attempt: u32) -> Self {
        // FNV-1a with a final mix. It separates attempts; it secures nothing.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let numbers = [chunk.to_le_bytes(), attempt.to_le_bytes()];
        for byte in job.bytes().chain([0]).chain(numbers.into_iter().flatten()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
        let mut prefix = [DIGITS[10 + (hash % 26) as usize]; 8];
        hash /= 26;
        for byte in &mut prefix[1..] {
            *byte = DIGITS[(hash % 36) as usize];
            hash /= 36;
        }
        Self(prefix)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the digits are ASCII")
    }
}

impl fmt::Display for WirePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl WireId {
    /// The id of `row` under `prefix`.
    pub fn new(prefix: WirePrefix, row: u64) -> Self {
        Self { prefix, row }
    }

    /// The attempt's part.
    pub fn prefix(&self) -> WirePrefix {
        self.prefix
    }

    /// The row's number within the job's input, from 0.
    pub fn row(&self) -> u64 {
        self.row
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0u8; 13];
        let mut at = digits.len();
        let mut rest = self.row;
        loop {
            at -= 1;
            digits[at] = DIGITS[(rest % 36) as usize];
            rest /= 36;
            if rest == 0 {
                break;
            }
        }
        let digits = std::str::from_utf8(&digits[at..]).expect("the digits are ASCII");
        write!(f, "{}-{digits}", self.prefix)
    }
}

impl FromStr for WireId {
    type Err = crate::Error;

    /// Reads exactly what `Display` writes, and nothing else.
    fn from_str(text: &str) -> crate::Result<Self> {
        let other = || crate::Error::new(crate::ErrorKind::InvalidRequest, "not a wire id");
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let (prefix, digits) = text.split_once('-').ok_or_else(other)?;
        let prefix: [u8; 8] = prefix.as_bytes().try_into().map_err(|_| other())?;
        let canonical = prefix[0].is_ascii_lowercase()
            && prefix.iter().all(|b| lower(*b))
            && (digits == "0" || !digits.starts_with('0'))
            && !digits.is_empty()
            && digits.bytes().all(lower);
        if !canonical {
            return Err(other());
        }
        let row = u64::from_str_radix(digits, 36).map_err(|_| other())?;
        Ok(Self {
            prefix: WirePrefix(prefix),
            row,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f_176_an_id_reads_back_and_obeys_the_strictest_rule(job in ".{0,12}", chunk: u32, attempt: u32, row: u64) {
            let id = WireId::new(WirePrefix::of(&job, chunk, attempt), row);
            let text = id.to_string();
            prop_assert!(text.len() <= 64);
            prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(text.as_bytes()[0].is_ascii_lowercase());
            prop_assert_eq!(text.parse::<WireId>().unwrap(), id);
        }

        #[test]
        fn f_098_foreign_text_is_no_id(text in ".{0,24}") {
            if let Ok(id) = text.parse::<WireId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn attempts_and_chunks_have_prefixes_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for chunk in 0..1000 {
            for attempt in 1..5 {
                assert!(seen.insert(WirePrefix::of("job", chunk, attempt)));
            }
        }
    }
}
