//! Encodings that Google's protocols use: base64, its URL form, CRC-32C.

/// Bytes of base64 in the URL alphabet, without padding (with it, too).
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut word, mut bits) = (0_u32, 0);
    for digit in text.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            let [.., last] = (word >> bits).to_be_bytes();
            bytes.push(last);
        }
    }
    Some(bytes)
}

/// CRC-32C over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc32c(u32);

impl Crc32c {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = (self.0 >> 8) ^ TABLE[usize::from(low ^ byte)];
        }
    }

    /// As Cloud Storage writes it: base64 of four bytes, the highest first.
    pub(super) fn text(self) -> String {
        crate::answer::base64(&(!self.0).to_be_bytes())
    }
}

const TABLE: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the index is below 256")]
        let mut word = index as u32;
        let mut bit = 0;
        while bit < 8 {
            word = if word & 1 == 1 {
                (word >> 1) ^ 0x82F6_3B78
            } else {
                word >> 1
            };
            bit += 1;
        }
        table[index] = word;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        let mut crc = Crc32c::new();
        crc.update(b"12345");
        crc.update(b"6789");
        // RFC 3720's check value, 0xE3069283.
        assert_eq!(crc.text(), "4waSgw==");
        assert_eq!(base64url("AQID_w").as_deref(), Some(&[1, 2, 3, 255][..]));
        assert_eq!(base64url("a b"), None);
    }
}
