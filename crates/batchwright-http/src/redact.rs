//! Makes text from outside safe to store and to print.

use crate::Secret;
use memchr::memmem;
use std::{borrow::Cow, iter::Peekable};

/// The most characters of a redacted text.
const LONGEST: usize = 500;

/// The most bytes looked at; more than enough for what is kept, since cutting comes last.
const LOOKED_AT: usize = 16 * 1024;

/// What stands for a removed key.
const REMOVED: &str = "[redacted]";

/// Prefixes of keys, each with the shortest rest that makes it one.
const PREFIXES: &[(&str, usize)] = &[
    ("sk-", 4),
    ("sk_", 8),
    ("gsk_", 4),
    ("xai-", 8),
    ("AIza", 8),
    ("ya29.", 8),
    ("AKIA", 12),
    ("ASIA", 12),
    ("ghp_", 8),
    ("hf_", 8),
    ("r8_", 8),
    ("pplx-", 8),
    ("nvapi-", 8),
    ("eyJ", 16),
];

/// Removes what looks like a key (`sk-…`, `AIza…`, `gsk_…`, `Bearer …`, a long token after a word like
/// "key"), control characters and terminal escapes, and cuts at 500 characters (F-202, F-203).
pub fn redact(text: &str) -> String {
    redact_with(text, &[])
}

/// As [`redact`], and removes the given secrets wherever they stand.
pub fn redact_with(text: &str, secrets: &[&Secret]) -> String {
    // Twice: an escape sequence may hide inside a key, or swallow the start of one.
    let text = visible(&without_known(prefix(text), secrets));
    cut(without_known(&text, secrets))
}

/// What can be shown of an answer that is not the JSON expected: HTML without its tags (F-053), other
/// text as it is, at most 200 bytes, redacted.
pub fn error_text(body: &[u8], content_type: Option<&str>) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(LOOKED_AT)]);
    let html = content_type.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"))
        || text.trim_start().starts_with('<');
    let text = if html {
        redact(&without_tags(&text))
    } else {
        redact(&text)
    };
    let mut end = text.len().min(200);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end().to_owned()
}

fn prefix(text: &str) -> &str {
    let mut end = text.len().min(LOOKED_AT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The text without escape sequences and invisible characters; runs of white space become one space.
fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            // The one-character forms of ESC [ and ESC ].
            '\u{9b}' => skip_csi(&mut chars),
            '\u{9d}' | '\u{90}' => skip_string(&mut chars),
            _ if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ if c.is_control() || is_invisible(c) => {}
            _ => out.push(c),
        }
    }
    out
}

/// Characters that reorder or hide the text around them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

fn skip_escape(chars: &mut Peekable<impl Iterator<Item = char>>) {
    match chars.next_if(|c| !c.is_control()) {
        Some('[') => skip_csi(chars),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars),
        Some(' '..='/') => {
            chars.next_if(|c| matches!(c, '0'..='~'));
        }
        _ => {}
    }
}

fn skip_csi(chars: &mut Peekable<impl Iterator<Item = char>>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Up to BEL or ST.
fn skip_string(chars: &mut Peekable<impl Iterator<Item = char>>) {
    while let Some(c) = chars.next() {
        match c {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

fn without_known(text: &str, secrets: &[&Secret]) -> String {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        let secret = secret.expose();
        // Shorter than any key; removing it would only tear words apart.
        if secret.len() >= 4 && memmem::find(text.as_bytes(), secret.as_bytes()).is_some() {
            text = Cow::Owned(text.replace(secret, REMOVED));
        }
    }
    without_keys(&text)
}

fn without_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // How many words ago a word announced a key; a few may stand between, as in "API key provided: …".
    let mut announced: Option<u8> = None;
    let mut bearer = false;
    while !rest.is_empty() {
        let start = rest.find(is_token).unwrap_or(rest.len());
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        rest = after;
        if token.is_empty() {
            continue;
        }
        let lower = token.to_ascii_lowercase();
        let near = announced.is_some_and(|words| words < 4);
        if bearer && token.len() >= 6 && token != "redacted" {
            out.push_str(REMOVED);
            bearer = false;
            continue;
        }
        if let Some(start) = key_start(token) {
            out.push_str(&token[..start]);
            out.push_str(REMOVED);
            continue;
        }
        if near && is_key_material(token) {
            out.push_str(REMOVED);
            continue;
        }
        out.push_str(token);
        bearer = lower == "bearer" || lower == "basic";
        announced = if announces_key(&lower) {
            Some(0)
        } else {
            announced.and_then(|words| words.checked_add(1))
        };
    }
    out
}

/// Whether a word says that a key comes. Several tokens are what models count: behind them stand models' names.
fn announces_key(lower: &str) -> bool {
    [
        "key",
        "token",
        "secret",
        "password",
        "authorization",
        "credential",
    ]
    .iter()
    .any(|word| lower.contains(word))
        && (!lower.trim_end_matches('.').ends_with("tokens")
            || ["access", "auth", "key"]
                .iter()
                .any(|word| lower.contains(word)))
}

/// Where in a token a key begins: at its start or behind a separator, as in `key=sk-…`.
fn key_start(token: &str) -> Option<usize> {
    let starts = std::iter::once(0).chain(
        token
            .match_indices(|c: char| !c.is_ascii_alphanumeric())
            .map(|(at, found)| at + found.len()),
    );
    starts
        .filter(|start| {
            PREFIXES.iter().any(|(prefix, rest)| {
                token[*start..]
                    .strip_prefix(prefix)
                    .is_some_and(|tail| tail.chars().count() >= *rest)
            })
        })
        .min()
}

/// Long enough and mixed enough for a key in hex or base64, or one partly starred out.
fn is_key_material(token: &str) -> bool {
    let has_digit = token.bytes().any(|byte| byte.is_ascii_digit());
    let has_letter = token.bytes().any(|byte| byte.is_ascii_alphabetic());
    (token.chars().count() >= 16 && has_digit && has_letter)
        || token.contains("**")
        || token.chars().count() >= 40
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, '-' | '_' | '.' | '+' | '/' | '=' | '*' | '~' | '…' | '•')
}

/// The text of an HTML page: no tags, no scripts, no styles, the commonest entities read.
fn without_tags(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        out.push(' ');
        rest = &rest[open + 1..];
        // ASCII lower case keeps every byte's place.
        let lower = rest.to_ascii_lowercase();
        let hidden = ["script", "style"]
            .into_iter()
            .find(|name| lower.starts_with(name));
        let end = match hidden {
            Some(name) => lower
                .find(&format!("</{name}"))
                .and_then(|at| lower[at..].find('>').map(|close| at + close)),
            None if lower.starts_with("!--") => lower.find("-->").map(|at| at + 2),
            None => lower.find('>'),
        };
        rest = end.map_or("", |end| &rest[end + 1..]);
    }
    out.push_str(rest);
    let out = ["&nbsp;", "&lt;", "&gt;", "&quot;", "&#39;", "&amp;"]
        .into_iter()
        .zip([" ", "<", ">", "\"", "'", "&"])
        .fold(out, |text, (entity, plain)| text.replace(entity, plain));
    out.trim().to_owned()
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        let keep = text
            .char_indices()
            .nth(LONGEST - 1)
            .map_or(end, |(at, _)| at);
        text.truncate(keep);
        text.push('…');
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn f_203_keys_are_removed_and_words_stay() {
        let cases = [
            (
                "Incorrect API key provided: sk-abcd1234efgh.",
                "Incorrect API key provided: [redacted]",
            ),
            (
                "Incorrect API key provided: sk-ab***********yz. You can find",
                "Incorrect API key provided: [redacted] You can find",
            ),
            (
                "bad key sk-ant-api03-AbCdEf_123-xyz!",
                "bad key [redacted]!",
            ),
            (
                "key=AIzaSyA1234567890abcdef, retry",
                "key=[redacted], retry",
            ),
            ("gsk_0123456789abcdef", "[redacted]"),
            (
                "Authorization: Bearer abc.def-123",
                "Authorization: Bearer [redacted]",
            ),
            (
                "authorization: Basic dXNlcjpwYXNz",
                "authorization: Basic [redacted]",
            ),
            (
                "x-api-key: 0123456789abcdef0123456789abcdef",
                "x-api-key: [redacted]",
            ),
            (
                "secret \"aGVsbG8gd29ybGQgMTIz/+==\"",
                "secret \"[redacted]\"",
            ),
            (
                "{\"token\":\"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc\"}",
                "{\"token\":\"[redacted]\"}",
            ),
            (
                "No such File object: file-abc123DEF456ghi789",
                "No such File object: file-abc123DEF456ghi789",
            ),
            (
                "request req_0123456789abcdef0123456789abcdef failed",
                "request req_0123456789abcdef0123456789abcdef failed",
            ),
            (
                "Rate limit reached for gpt-4o-mini on tokens per min (TPM): Limit 200000",
                "Rate limit reached for gpt-4o-mini on tokens per min (TPM): Limit 200000",
            ),
            (
                "the maximum number of output tokens for claude-haiku-4-5-20251001",
                "the maximum number of output tokens for claude-haiku-4-5-20251001",
            ),
            (
                "max_tokens of claude-haiku-4-5-20251001; token 0123456789abcdef0",
                "max_tokens of claude-haiku-4-5-20251001; token [redacted]",
            ),
            ("risk-based and task-list", "risk-based and task-list"),
        ];
        for (input, expected) in cases {
            assert_eq!(redact(input), expected);
        }
    }

    #[test]
    fn f_202_escapes_and_controls_are_removed() {
        let cases = [
            ("a\u{1b}[31;1mred\u{1b}[0m b", "ared b"),
            ("a\u{1b}]52;c;ZXZpbA==\u{7}b\u{1b}]0;title\u{1b}\\c", "abc"),
            ("a\u{9b}2Jb\u{8}\u{0}\u{7f}c", "abc"),
            ("line\r\none\ttwo", "line one two"),
            ("a\u{202e}b\u{200b}c", "abc"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("\u{1b}\u{1b}[31mx", "x"),
        ];
        for (input, expected) in cases {
            assert_eq!(redact(input), expected, "{input:?}");
        }
    }

    #[test]
    fn f_192_known_secrets_are_removed_wherever_they_stand() {
        let secret = Secret::new("Tr0ub4dor&3 with blanks".into());
        let told = redact_with("you sent xTr0ub4dor&3 with blanksx", &[&secret]);
        assert_eq!(told, "you sent x[redacted]x");
        let empty = Secret::new(String::new());
        assert_eq!(redact_with("abc", &[&empty]), "abc");
    }

    #[test]
    fn long_text_is_cut() {
        let told = redact(&"é ".repeat(5000));
        assert_eq!(told.chars().count(), 500);
        assert!(told.ends_with('…'));
    }

    #[test]
    fn f_053_html_is_told_without_tags() {
        let page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title><style>a{b:c}</style>\n<script>var x = '<b>';</script></head><body><!-- <hidden> --><h1>Bad&nbsp;gateway</h1><p>Ray ID &amp; more</p></body></html>";
        for kind in [Some("text/html; charset=UTF-8"), None] {
            assert_eq!(
                error_text(page.as_bytes(), kind),
                "502 Bad Gateway Bad gateway Ray ID & more"
            );
        }
        assert_eq!(error_text(b"<html", Some("text/html")), "");
        assert_eq!(
            error_text(b"upstream \x1b[31mdied", Some("text/plain")),
            "upstream died"
        );
        assert!(error_text("é".repeat(900).as_bytes(), None).len() <= 200);
        assert_eq!(error_text(b"", None), "");
    }

    proptest! {
        /// F-202, F-203: whatever comes in, what goes out is short, visible and without the key.
        #[test]
        fn any_text_is_made_safe(text in "\\PC{0,60}[\\x00-\\x1f<>&;\u{9b}\u{9d}]{0,9}\\PC{0,60}", around in "[ \"':=,a-z\u{1b}\\[]{0,20}") {
            for told in [redact(&text), error_text(text.as_bytes(), Some("text/html")), error_text(text.as_bytes(), None)] {
                prop_assert!(told.chars().count() <= 500);
                prop_assert!(!told.chars().any(char::is_control));
            }
            let key = "sk-proj-canary0123456789";
            let secret = Secret::new(key.into());
            let echo = format!("{around}{key}{text}");
            prop_assert!(!redact_with(&echo, &[&secret]).contains("canary"));
        }
    }
}
