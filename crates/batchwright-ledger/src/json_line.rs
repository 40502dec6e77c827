//! One line of JSON on its way into a buffer.
//!
//! Written by hand, since a line is written for each call: what serde would find out field by field is known here.

/// Digits up to base 16.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes of a text that are looked at together.
const CHUNK: usize = 16;

/// Appends to a line, which stays one.
pub(crate) struct JsonLine<'a>(&'a mut Vec<u8>);

impl<'a> JsonLine<'a> {
    pub(crate) fn new(line: &'a mut Vec<u8>) -> Self {
        Self(line)
    }

    /// Makes room for `bytes` more.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// Keys and what stands between values.
    pub(crate) fn put(&mut self, json: &'static str) {
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(crate) fn number(&mut self, number: u64) {
        // The largest has 20 digits.
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = DIGITS[(rest % 10) as usize];
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }

    pub(crate) fn number_or_null(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.put("null"),
        }
    }

    pub(crate) fn bool(&mut self, bool: bool) {
        self.put(if bool { "true" } else { "false" });
    }

    pub(crate) fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.put("null"),
        }
    }

    /// A text, quotes included.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.push(b'"');
        let mut rest = text.as_bytes();
        while let Some(at) = first_escaped(rest) {
            self.0.extend_from_slice(&rest[..at]);
            self.escaped(rest[at]);
            rest = &rest[at + 1..];
        }
        self.0.extend_from_slice(rest);
        self.0.push(b'"');
    }

    fn escaped(&mut self, byte: u8) {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            0x09 => b't',
            0x0a => b'n',
            0x0c => b'f',
            0x0d => b'r',
            _ => {
                let (high, low) = (
                    DIGITS[usize::from(byte >> 4)],
                    DIGITS[usize::from(byte & 15)],
                );
                self.0
                    .extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
                return;
            }
        };
        self.0.extend_from_slice(&[b'\\', short]);
    }

    /// JSON as it is, but on this line: its texts hold no bare line end, so every one is white space of a layout.
    pub(crate) fn json(&mut self, json: &str) {
        let start = self.0.len();
        self.0.extend_from_slice(json.as_bytes());
        let mut rest = &mut self.0[start..];
        while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
            rest[at] = b' ';
            rest = &mut rest[at + 1..];
        }
    }

    /// A list of numbers, or of lists of them.
    pub(crate) fn numbers(&mut self, numbers: &impl serde::Serialize) {
        serde_json::to_writer(&mut *self.0, numbers).expect("numbers always serialise to memory");
    }
}

fn is_escaped(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Where the first byte stands that no JSON text holds as it is. Without a branch for each byte.
fn first_escaped(text: &[u8]) -> Option<usize> {
    let (chunks, rest) = text.as_chunks::<CHUNK>();
    for (place, chunk) in chunks.iter().enumerate() {
        let any = chunk
            .iter()
            .fold(false, |any, byte| any | is_escaped(*byte));
        if any {
            let within = chunk.iter().position(|byte| is_escaped(*byte))?;
            return Some(place * CHUNK + within);
        }
    }
    let within = rest.iter().position(|byte| is_escaped(*byte))?;
    Some(text.len() - rest.len() + within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut JsonLine<'_>)) -> String {
        let mut line = Vec::new();
        write(&mut JsonLine::new(&mut line));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn each_byte_is_written_as_serde_writes_it() {
        for code in 0..0x100_u32 {
            let text = format!("a{}b", char::from_u32(code).unwrap());
            assert_eq!(
                written(|line| line.text(&text)),
                serde_json::to_string(&text).unwrap()
            );
        }
    }

    proptest! {
        #[test]
        fn texts_and_numbers_are_written_as_serde_writes_them(
            text in "([ -~]{0,20}[\\x00-\\x7f\"\\\\\u{7f}-\u{2030}]){0,6}",
            number: u64,
            few in 0u64..1000,
        ) {
            prop_assert_eq!(written(|line| line.text(&text)), serde_json::to_string(&text).unwrap());
            prop_assert_eq!(written(|line| line.number(number)), number.to_string());
            prop_assert_eq!(written(|line| line.number(few)), few.to_string());
        }
    }
}
