//! What the emulated models say: a pure function of the prompt and the seed.

use std::fmt;

use ring::digest;

use crate::seed::{Rng, mix};

/// The first 16 hexadecimal digits of the SHA-256 of all texts, one after the other with nothing between them.
///
/// For a chat the texts are the texts of all messages in their order, whatever their role, the text parts of one
/// message in theirs; for the responses endpoint `instructions` comes first; for embeddings they are the inputs. Images
/// and other parts without text do not count, and neither does the model. Every answer carries it as `[prompt:HASH]`.
///
/// ```
/// let hash = batchwright_emulator::prompt_hash(["You are terse.", "Hi"]);
/// assert_eq!(hash, batchwright_emulator::prompt_hash(["You are terse.Hi"]));
/// assert_eq!(hash.len(), 16);
/// ```
pub fn prompt_hash<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> String {
    PromptHash::of(texts).to_string()
}

/// [`prompt_hash`] as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PromptHash(pub(crate) u64);

impl PromptHash {
    pub(crate) fn of<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for text in texts {
            context.update(text.as_ref());
        }
        let digest = context.finish();
        let head: [u8; 8] = digest.as_ref()[..8]
            .try_into()
            .expect("a SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(head))
    }
}

impl fmt::Display for PromptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Estimated tokens of a text: its bytes divided by 4, rounded up.
pub(crate) fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4)
}

/// Bytes of `[prompt:HASH]`.
pub(crate) const MARK_BYTES: usize = 25;

/// A sentence that begins with `[prompt:HASH]` and quotes the first words of the prompt's last text.
pub(crate) fn sentence(seed: u64, hash: PromptHash, last_text: &str) -> String {
    let mut rng = Rng::new(mix(seed, hash.0));
    let mut text = format!("[prompt:{hash}] ");
    let quote = quote(last_text);
    if !quote.is_empty() {
        text.push_str("On \"");
        text.push_str(quote);
        text.push_str("\": ");
    }
    for (before, words) in [
        ("the ", ADJECTIVES),
        (" ", NOUNS),
        (" ", VERBS),
        (" a ", ADJECTIVES),
        (" ", NOUNS),
    ] {
        text.push_str(before);
        let word: &&str = rng.pick(words);
        text.push_str(word);
    }
    text.push('.');
    text
}

/// A few seeded words, for fields that ask for text.
pub(crate) fn words(rng: &mut Rng, count: u64) -> String {
    let mut text = String::new();
    for index in 0..count {
        if index > 0 {
            text.push(' ');
        }
        let word: &&str = rng.pick(if index % 2 == 0 { ADJECTIVES } else { NOUNS });
        text.push_str(word);
    }
    text
}

/// A unit vector that depends on the text alone.
pub(crate) fn unit_vector(hash: PromptHash, dimensions: usize) -> Vec<f32> {
    let mut rng = Rng::new(hash.0);
    let mut vector: Vec<f32> = (0..dimensions).map(|_| rng.signed_unit()).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if norm > 0.0 {
        for x in &mut vector {
            *x /= norm;
        }
    }
    vector
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= chunk.len() {
                let index = (word >> (18 - 6 * digit)) & 63;
                text.push(char::from(DIGITS[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The longest head of `text` of at most `bytes` bytes that ends between characters.
pub(crate) fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes.min(text.len()))]
}

/// The first words of a text, at most 40 bytes.
fn quote(text: &str) -> &str {
    let text = text.trim();
    let line = text.split(['\n', '\r']).next().unwrap_or_default();
    let end = line
        .char_indices()
        .filter(|(_, c)| c.is_whitespace())
        .nth(4)
        .map_or(line.len(), |(at, _)| at);
    head(&line[..end], 40).trim_end()
}

const ADJECTIVES: &[&str] = &[
    "quiet", "early", "narrow", "bright", "patient", "distant", "hollow", "gentle", "stubborn",
    "silver", "northern", "plain", "crowded", "careful", "late", "wooden",
];
const NOUNS: &[&str] = &[
    "harbour", "train", "orchard", "letter", "lantern", "valley", "engine", "window", "market",
    "river", "clock", "bridge", "garden", "ledger", "teacher", "winter",
];
const VERBS: &[&str] = &[
    "keeps",
    "follows",
    "explains",
    "answers",
    "remembers",
    "crosses",
    "measures",
    "carries",
    "outlives",
    "mends",
    "describes",
    "prefers",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_head_of_sha_256() {
        assert_eq!(prompt_hash(["abc"]), "ba7816bf8f01cfea");
        assert_eq!(prompt_hash(["a", "", "bc"]), "ba7816bf8f01cfea");
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn a_sentence_carries_the_hash_and_quotes_the_prompt() {
        let hash = PromptHash::of(["one two three four five six seven"]);
        let text = sentence(0, hash, "one two three four five six seven");
        assert!(text.starts_with(&format!(
            "[prompt:{hash}] On \"one two three four five\": the "
        )));
        assert_eq!(text, sentence(0, hash, "one two three four five six seven"));
        assert_eq!(format!("[prompt:{hash}]").len(), MARK_BYTES);
    }

    #[test]
    fn vectors_have_length_one() {
        let vector = unit_vector(PromptHash(7), 64);
        let norm: f32 = vector.iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
    }
}
