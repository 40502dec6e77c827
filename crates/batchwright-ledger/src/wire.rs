//! Ids on the wire: short, safe, ours, and proof of the attempt they belong to.

use crate::files::Sha256;

/// The prefix of every wire id of one attempt: 8 characters of `a-z` and `0-9`, from the SHA-256 of job,
/// chunk and attempt. One result line is enough to tell which attempt it belongs to.
pub fn wire_prefix(job: &str, chunk: u32, attempt: u32) -> String {
    let mut sha = Sha256::new();
    sha.update(format!("{job}\n{chunk}\n{attempt}").as_bytes());
    let hex = sha.hex();
    let number = u64::from_str_radix(&hex[..16], 16).expect("16 hex digits fit 64 bits");
    let mut prefix = base36(number % 36_u64.pow(8));
    while prefix.len() < 8 {
        prefix.insert(0, '0');
    }
    prefix
}

/// The wire id of a row: `<prefix>-<row in base 36>`, at most 22 characters with a prefix of 8. The
/// caller's own ids never reach the wire (F-172).
pub fn wire_id(prefix: &str, row: u64) -> String {
    format!("{prefix}-{}", base36(row))
}

/// Reads an id made by [`wire_id`]; `None` for any other text, a differently written number included.
pub fn parse_wire_id(id: &str) -> Option<(&str, u64)> {
    let (prefix, digits) = id.split_once('-')?;
    let plain = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if prefix.len() != 8 || !plain(prefix) || !plain(digits) {
        return None;
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((prefix, u64::from_str_radix(digits, 36).ok()?))
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(13);
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits
        .iter()
        .rev()
        .map(|&digit| char::from(digit))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f_172_a_wire_id_reads_back(job in "[a-z0-9]{1,10}", chunk: u32, attempt in 1u32.., row: u64) {
            let prefix = wire_prefix(&job, chunk, attempt);
            prop_assert_eq!(prefix.len(), 8);
            let id = wire_id(&prefix, row);
            prop_assert!(id.len() <= 22);
            prop_assert_eq!(parse_wire_id(&id), Some((prefix.as_str(), row)));
        }

        #[test]
        fn foreign_text_is_no_wire_id(text in "([a-z0-9A-Z]{7,9})?-?.{0,16}") {
            if let Some((prefix, row)) = parse_wire_id(&text) {
                prop_assert_eq!(wire_id(prefix, row), text);
            }
        }
    }

    #[test]
    fn prefixes_tell_jobs_chunks_and_attempts_apart() {
        let all = [
            wire_prefix("job", 1, 1),
            wire_prefix("job", 1, 2),
            wire_prefix("job", 2, 1),
            wire_prefix("jab", 1, 1),
        ];
        for (index, prefix) in all.iter().enumerate() {
            assert!(!all[..index].contains(prefix));
        }
        assert_eq!(parse_wire_id("abcd1234-0z"), None);
        assert_eq!(parse_wire_id("abcd1234-"), None);
        assert_eq!(parse_wire_id("../../etc-1"), None);
        assert_eq!(parse_wire_id("abcd1234-zzzzzzzzzzzzzzzz"), None);
    }
}
