//! Seeded numbers: everything that looks random in the emulator comes from here.

/// A splitmix64 generator: one word of state, the same sequence on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scramble(self.0)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(from.len() as u64)).expect("an index fits usize");
        &from[index]
    }

    /// A number in -1.0..1.0.
    pub(crate) fn signed_unit(&mut self) -> f32 {
        let top = u32::try_from(self.next() >> 40).expect("24 bits fit u32");
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in f32")]
        let unit = top as f32 / 8_388_608.0;
        unit - 1.0
    }
}

/// The SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("a SHA-256 has 32 bytes")
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}

/// Mixes two words into one, differently for every pair.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    scramble(
        scramble(a)
            .wrapping_add(b)
            .wrapping_add(0x9E37_79B9_7F4A_7C15),
    )
}

/// 32 hexadecimal digits that differ for every (`seed`, `sequence`) pair of one `kind`.
pub(crate) fn hex_id(seed: u64, kind: u64, sequence: u64) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let low = mix(mix(seed, kind), sequence);
    let high = mix(low, sequence ^ kind);
    let mut text = [0_u8; 32];
    for (index, byte) in low
        .to_be_bytes()
        .iter()
        .chain(high.to_be_bytes().iter())
        .enumerate()
    {
        text[index * 2] = DIGITS[usize::from(byte >> 4)];
        text[index * 2 + 1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// [`hex_id`] with a prefix, for example `batch_` and its 32 digits.
pub(crate) fn id(prefix: &str, seed: u64, kind: u64, sequence: u64) -> String {
    let digits = hex_id(seed, kind, sequence);
    let mut text = String::with_capacity(prefix.len() + digits.len());
    text.push_str(prefix);
    text.push_str(std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII"));
    text
}

fn scramble(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
